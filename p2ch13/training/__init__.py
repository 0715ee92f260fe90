"""Samples -> a trained network.

`app`: one run; `options`: of a command line, a file or a state; `samples`: its split and datasets; `learner`: the model
and its step; `loop`: a step, an epoch and a validation as functions; `augmentation`, `losses`, `optimizers`, `mining`:
parts of a step; `backgrounds`, `background_samples`, `painter`, `painting`, `shapes`: unannotated lungs, and nodules
painted into them; `painted_scans`: the same as whole scans; `two_stages`, `finding_examples`, `second_stage`: the
training of the second stage; `cross_validation`: folds; `totals`, `non_finite`: sums and faults of an epoch; `run`,
`run_files`, `resume`, `provenance`: the run's state and files; `graphs`: compiled and recorded steps; `distributed`:
several processes; `messages`, `tensorboard`, `loss_curve`: what a user sees.
"""
