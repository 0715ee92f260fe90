"""Network + volume -> masks and nodules.

`segment`: scan -> map of logits; `findings`: map -> connected components; `pictures`: overlays; `outputs`: images,
nodules.csv, DICOM Segmentation; `folders`: a scan's own folder; `pipeline`: prediction, scan by scan.
"""
