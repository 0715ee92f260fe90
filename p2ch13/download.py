"""`python -m p2ch13.download`"""

from p2ch13.acquisition.download import main
from p2ch13.util.errors import run_command

if __name__ == "__main__":
    run_command(main)
