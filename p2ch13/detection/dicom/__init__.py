"""Findings as DICOM objects, of scans that are DICOM series.

`source`: what objects repeat of a series and refer to; `objects`: what the objects share; `outlines`: mask -> polygons;
`segmentation`: DICOM SEG; `structure_set`: RTSTRUCT; `measurement_report`: SR; `writer`: the files of a scan.
"""
