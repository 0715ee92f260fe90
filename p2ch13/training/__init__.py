"""Training: `options`, the command line; `app`, the loop; `run_state`, what a run saves and takes up again."""
