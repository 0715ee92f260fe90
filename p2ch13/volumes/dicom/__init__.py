"""DICOM files on disk -> CT series, and one series as one volume.

`tags`: what a file says, read by pydicom; `kinds`: which objects are slices of a scan; `slices`: the geometry of each
slice, of a file of its own or a frame; `pixels`: checks and reads its pixels, in HU; `search`: finds the series of a
folder, a file or a zip archive; `phases`: acquisitions that overlap in a series; `volume`: puts slices in order.
"""
