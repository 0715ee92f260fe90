"""Nodules, masks or findings + annotations -> scores.

`metrics`: pixel counts and scores; `froc`: FROC and CPM; `checkpoints`: which network scores which scan; `external`:
other programs' masks and findings; `scoring`: one scan; `shapes`: volume and surface of a nodule; `summary`,
`size_classes`: many scans; `calibration`: of findings' probabilities; `submission`: tables without scans; `report` and
`worst_cases`: files; `pipeline`: scan by scan.
"""
