"""DICOM files on disk -> CT series, and one series as one volume.

`tags`: what a file says, read by pydicom; `kinds`: which objects are slices of a scan; `slices`: the geometry of each
slice, of a file of its own or a frame; `pixels`: how its pixels are stored; `decoding`: its HU; `series`: puts together
the slices of each series; `search`: finds the series of a folder or file; `archive`: of a zip archive; `phases`:
acquisitions that overlap in a series; `volume`: puts slices in order and checks that they make up one volume.
"""
