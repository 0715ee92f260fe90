"""Train the segmentation model: `python training.py --help`, the same as `python -m p2ch13.training`."""

from p2ch13.training.__main__ import main
from p2ch13.util.errors import run_command

if __name__ == "__main__":
    run_command(main)
