"""Prediction on whole scans: `options`, the command line, `inputs`, what it names, and `app`, scan by scan."""
