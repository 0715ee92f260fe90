"""Training: `options`, the command line; `app`, the loop; `run_state`, what a run saves and takes up again; `resume`,
which run that is; `provenance`, where it comes from; `messages`, what it says at its start and end; `non_finite`,
batches whose loss is not finite."""
