"""Turn the CT series of a folder of DICOM files, such as LIDC-IDRI's, into scans in LUNA16's layout."""

from __future__ import annotations

from collections.abc import Sequence

from p2ch13.commands import spell
from p2ch13.config import ImportOptions, parse
from p2ch13.util.errors import run_command
from p2ch13.util.logconf import set_up_logging
from p2ch13.util.process_rank import ProcessRank


def main(sys_argv: Sequence[str] | None = None) -> int:
    """Import DICOM series as a command line says, see `import_folder`."""
    options = parse(ImportOptions, spell("import-dicom"), __doc__, sys_argv)
    from p2ch13.acquisition.import_dicom import import_folder  # imports SimpleITK

    set_up_logging(to_stderr=options.json)
    return import_folder(options, ProcessRank.from_environment()).finish(options.json)


if __name__ == "__main__":
    run_command(main)
