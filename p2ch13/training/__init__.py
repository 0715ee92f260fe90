"""Training: `options`, the command line, and `app`, the loop."""
