"""Files on disk -> HU arrays with geometry, and the lung mask.

`headers`: a scan's header and voxel file; `formats`: checks a file before ITK reads it; `files`: finds scans, reads
headers and voxels; `dicom`: orders the slices of a series; `volume`: a scan in axial order, and its context slices;
`lungs`: its lung mask.
"""
