"""Files on disk -> HU arrays with geometry, and the lung mask.

`headers`: checks a header's claims against its file; `files`: finds scans, reads headers and voxels; `dicom`: orders
the slices of a series; `lungs`: lung mask of a volume.
"""
