"""`python -m p2ch13.import_dicom`"""

from p2ch13.acquisition.import_dicom import main
from p2ch13.util.errors import run_command

if __name__ == "__main__":
    run_command(main)
