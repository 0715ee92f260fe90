"""Training: `app`, one run; `learner`, the model and its step; `loop`, a step, an epoch and a validation as functions;
`run`, `run_files` and `resume`, the run's state and files."""
