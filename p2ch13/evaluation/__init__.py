"""Nodules, masks or findings + annotations -> scores.

`metrics`: pixel counts and scores; `froc`: FROC and CPM; `bootstrap`: intervals of other scores; `checkpoints`: which
network scores which scan; `external`: other programs' masks and findings; `finders`: what finds; `scoring`, `shapes`:
one scan; `kept`: its scores as a file; `summary`, `size_classes`: many scans; `calibration`: of findings'
probabilities; `submission`: tables without scans; `results`: all that was scored; `report`, `figures`, `worst_cases`:
files; `words`, `page`, `page_texts`, `page_cases`: the page for people; `pipeline`: scan by scan.
"""
