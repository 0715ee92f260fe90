"""The network in the package, scored: `python -m benchmarks.quality`.

`scans`: test scans, prepared and scored; `scores`: sensitivity and false positives of nodules by size and kind;
`parts`: figures with their targets; `results`: docs/quality.json.
"""
