"""Network + volume -> masks and nodules.

`segment`: scan -> map of logits; `findings`: map -> connected components; `cubes`, `candidates`: map -> components that
the second stage scores; `detector`: both stages; `contours`, `measure`, `sides`: sizes, kinds and sides of findings;
`size_categories`: by published rules; `colors`, `pictures`: overlays; `report`, with `statements`, `search_facts`,
`planes` and `report_pictures`: HTML and JSON; `markups`: points for 3D Slicer; `outputs`: images, nodules.csv, DICOM
Segmentation; `folders`: a scan's own folder; `pipeline`: prediction, scan by scan.
"""
