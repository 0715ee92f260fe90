"""Get LUNA16: download it from Zenodo, unpack it, verify it."""

from __future__ import annotations

from collections.abc import Sequence

from p2ch13.acquisition.luna16 import FILES, RemoteFile
from p2ch13.commands import spell
from p2ch13.config import DownloadOptions, parse
from p2ch13.util.errors import run_command
from p2ch13.util.logconf import set_up_logging


def main(sys_argv: Sequence[str] | None = None, files: Sequence[RemoteFile] = FILES) -> int:
    """Download or verify LUNA16 as a command line says. Args: files: what LUNA16 consists of. Else see `get_luna16`."""
    options = parse(DownloadOptions, spell("download"), __doc__, sys_argv)
    from p2ch13.acquisition.download import get_luna16  # imports SimpleITK and requests

    set_up_logging(to_stderr=options.json)
    return get_luna16(options, files).finish(options.json)


if __name__ == "__main__":
    run_command(main)
