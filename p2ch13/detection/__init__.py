"""Network + volume -> masks and nodules.

`segment`: scan -> map of logits; `findings`: map -> connected components; `pictures`: overlays; `outputs`: images,
nodules.csv, DICOM Segmentation; `pipeline`: prediction, scan by scan.
"""
