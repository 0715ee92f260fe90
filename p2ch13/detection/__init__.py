"""Network + volume -> masks and nodules.

`segment`: scan -> map of logits; `findings`: map -> connected components; `cubes`, `candidates`: map -> components that
the second stage scores; `detector`: both stages; `pictures`: overlays; `outputs`: images, nodules.csv;
`dicom/`: DICOM objects; `folders`: a scan's own folder; `pipeline`: prediction, scan by scan.
"""
