"""Network + volume -> masks and nodules.

`segment`: scan -> probability map; `findings`: map -> connected components; `pictures`: overlays; `outputs`: images,
nodules.csv, DICOM Segmentation; `pipeline`: prediction, scan by scan.
"""
