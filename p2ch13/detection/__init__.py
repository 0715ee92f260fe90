"""Network + volume -> masks and nodules.

`segment`: scan -> map of logits; `findings`: map -> connected components; `cubes`, `candidates`: map -> components that
the second stage scores; `detector`: both stages; `pictures`: overlays; `outputs`: images, nodules.csv, DICOM
Segmentation; `folders`: a scan's own folder; `pipeline`: prediction, scan by scan; `viewer`: a page of
slices; `viewing`: this page for results on disk.
"""
