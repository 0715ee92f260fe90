"""Evaluation on whole scans: `options`, the command line, `app`, the loop, and what goes in and comes out."""
