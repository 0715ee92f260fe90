"""Files on disk -> HU arrays with geometry, and the lung mask.

`voxels`: reads a file's voxels; `headers`: a scan's header; `nifti`, `metaimage`, `nrrd`: read it from a file;
`formats`: which suffix is whose; `images`: images of SimpleITK and nibabel in memory; `chest`: checks that values are
HU; `files`: finds scans, reads headers and voxels;
`dicom`: orders the slices of a series; `volume`: a scan in axial order, and its context slices; `lungs`: its lung mask.
"""
