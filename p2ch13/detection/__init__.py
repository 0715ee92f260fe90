"""Network + volume -> masks and nodules.

`segment`: scan -> map of logits; `findings`: map -> connected components; `cubes`, `candidates`: map -> components that
the second stage scores; `detector`: both stages; `contours`, `measure`: sizes and kinds of findings;
`size_categories`: by published rules; `pictures`: overlays; `outputs`: images, nodules.csv, DICOM Segmentation;
`folders`: a scan's own folder; `pipeline`: prediction, scan by scan.
"""
