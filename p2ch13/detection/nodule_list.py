"""The rows of nodules.csv, scan by scan: of one process, or of several that share the scans of an output folder."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

from p2ch13 import __version__
from p2ch13.config import PredictOptions
from p2ch13.detection.outputs import Rows
from p2ch13.util.errors import InputError
from p2ch13.util.process_rank import ProcessRank
from p2ch13.util.shared_work import FOLDER, SharedWork, digest
from p2ch13.volumes.files import file_signature

# Options that a scan's files do not depend on; scans and checkpoints count by what is in them.
NOT_OF_A_SCAN = ("scans", "checkpoint", "output", "shard", "merge", "json", "device", "threads", "network")


class NoduleList:
    """The scans of a command, and the rows of those that are done.

    In one folder for several scans the rows are kept in files: a command that is stopped goes on where it was, and
    processes share the scans.

    Args: files: name of each scan -> its files.
    Attributes: `rows`, by scan, of those that this process knows; `skipped`, name -> reason.
    Raises: InputError for several processes without a folder that they share.
    """

    def __init__(self, options: PredictOptions, files: Mapping[str, Sequence[Path]], process: ProcessRank) -> None:
        self.names = list(files)
        self.rows: dict[str, Rows] = {}
        self.skipped: dict[str, str] = {}
        self.is_alone = process.is_alone and not options.shard and not options.merge
        self._work: SharedWork | None = None
        if options.output is None and not self.is_alone:
            raise InputError("several processes share a folder; name it", option="--output")
        if options.output is not None and (len(files) > 1 or not self.is_alone):
            settings = {name: value for name, value in asdict(options).items() if name not in NOT_OF_A_SCAN}
            common = digest([__version__, settings, list(map(file_signature, options.checkpoint))])
            items = {name: [common, list(map(file_signature, paths))] for name, paths in files.items()}
            self._work = SharedWork(options.output / FOLDER, items, process)
            self._read_done()

    def claimed(self, names: Sequence[str]) -> AbstractContextManager[Iterator[str]]:
        """Inside, this process searches scans, see `SharedWork.claimed`. Yields: their names, one by one."""
        return nullcontext(iter(names)) if self._work is None else self._work.claimed(names)

    def add(self, name: str, rows: Rows) -> None:
        """Keep the rows of a scan whose files are written."""
        self.rows[name] = rows
        if self._work is not None:
            self._work.store(name, rows)

    def skip(self, name: str, reason: str) -> None:
        self.skipped[name] = reason
        if self._work is not None:
            self._work.skip(name, reason)

    def with_rows_of(self, name: str, rows: Rows) -> Rows:
        """Return the rows of all scans that are done, and those of one more, in the order of the command."""
        known = {**self.rows, name: rows}
        return [row for each in self.names for row in known.get(each, [])]

    def describe(self, names: Sequence[str]) -> str:
        return "" if self._work is None else self._work.describe(names)

    def check_complete(self) -> None:
        """Raises: InputError if jobs with `--shard` have not done all."""
        if self._work is not None:
            self._work.check_complete("--shard")

    def gather(self) -> Rows:
        """Read what all processes have done. Returns: all rows."""
        if self._work is not None:
            self.skipped = self._work.find_skipped()
            self._read_done()
        return [row for name in self.names for row in self.rows.get(name, [])]

    def close(self) -> None:
        """Remove the kept rows, once the list of all is written; see `SharedWork.close`."""
        if self._work is not None:
            self._work.close()

    def _read_done(self) -> None:
        if self._work is not None:
            for name in self.names:
                if name not in self.rows and self._work.is_done(name):
                    self.rows[name] = self._work.read(name)


def list_files(source: Any) -> list[Path]:
    """List the files of a scan: that of its path, or those of its DICOM series."""
    return [source] if isinstance(source, Path) else sorted(source.files)
