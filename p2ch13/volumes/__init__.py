"""Files on disk -> HU arrays with geometry, and the lung mask.

`headers`: a scan's header and voxel file; `formats`: checks a file before ITK reads it; `files`: finds scans, reads
headers and voxels; `dicom`: orders the slices of a series; `lungs`: lung mask of a volume.
"""
