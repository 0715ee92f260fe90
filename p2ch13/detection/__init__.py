"""Network + volume -> masks and nodules.

`segment`: scan -> map of logits; `findings`: map -> connected components; `cubes`, `candidates`: map -> components that
the second stage scores; `detector`: both stages; `contours`, `measure`, `size_categories`, `sides`: measures; `colors`,
`pictures`: overlays; `report`, with `statements`, `search_facts`, `planes` and `report_pictures`: HTML and JSON;
`viewer`: a page of slices; `viewing`: this page for results on disk; `markups`: points for 3D Slicer; `outputs`:
images, nodules.csv; `nodule_list`: its rows of many scans; `dicom`: DICOM objects; `folders`: a scan's own folder;
`pipeline`: prediction, scan by scan; `conclusion`: what it ends with; `prediction`, `figure`: of one scan, for Python
and notebooks.
"""
