"""Context slices in HU, (batch, 7, row, col) -> logits or probabilities, (batch, 1, row, col).

`model`: UNetWrapper; `average`: several networks as one; `second_stage`: cubes around a finding -> its logit;
`calibration`: logits -> probabilities, thresholds; `finding_scorer`: both as one; `checkpoint`: .state files;
`card`: what these say about a network; `export`, `export_formats`: networks for other programs; `engine`: the
first stage by OpenVINO; `compute`: device, number format, threads, batch size of slices.
"""
