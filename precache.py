"""Fill the cache before training: `python precache.py --help`."""

from p2ch13.precache import main
from p2ch13.util.errors import run_command

if __name__ == "__main__":
    run_command(main)
