"""Many items as the work of several processes, or of one that is stopped and started again.

The result of each item is a file in a hidden folder. A process takes one item at a time and holds its lock, which the
system releases when the process ends, however it ends.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import signal
import time
import zlib
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from p2ch13.util.disk import CorruptEntryError, decode, encode
from p2ch13.util.errors import InputError, stop
from p2ch13.util.files import atomic_write, make_room_beside
from p2ch13.util.process_rank import ProcessRank
from p2ch13.util.progress import progress_bar

log = logging.getLogger(__name__)

FOLDER = ".scans"  # in an output folder
WAIT_S = 0.2  # until the next look at what other processes do
KILLED = "the process that was at work on it was killed, as for lack of memory; start again to try once more"


class SharedWork:
    """Items to work on, each in one process alone, and their results.

    Args:
        folder: for the results; removed by `close`.
        items: name -> what its result depends on, as values for JSON. A result of other values does not count.
        process: one of those that torchrun started.
    """

    def __init__(self, folder: Path, items: Mapping[str, Any], process: ProcessRank | None = None) -> None:
        self.folder = folder
        self.process = process or ProcessRank()
        self._files = {name: folder / digest([name, values]) for name, values in items.items()}
        folder.mkdir(parents=True, exist_ok=True)
        self._opened(self.process.rank).touch()

    @property
    def names(self) -> list[str]:
        return list(self._files)

    def _opened(self, rank: int) -> Path:
        """The file of a process that has begun, until the results are removed: a lock would make the folder anew."""
        return self.folder / f"{digest(self.process.launch)}.{rank}.opened"

    @contextmanager
    def claimed(self, names: Sequence[str], description: str = "", unit: str = "scan") -> Iterator[Iterator[str]]:
        """Inside, this process works on items that have no result and that no other process is at, until all have one.

        An item whose process was killed is skipped, and tried again when the work is started again.

        Args: description: of the progress bar; without it there is none.
        Yields: the items, one by one; store the result of one, or skip it, before the next is asked for.
        """
        claims = self._claim(names, description, unit)
        try:
            yield claims
        except KeyboardInterrupt:
            log.info(f"{self.describe(names)}; these are kept: start again to go on.")
            raise
        finally:
            claims.close()

    def _claim(self, names: Sequence[str], description: str, unit: str) -> Generator[str, None, None]:
        own = self.process.share(names)
        self._forget_earlier(own)
        order = [*own, *(name for name in names if name not in set(own))]
        done_count = self.count(names)
        is_shown = bool(description) and done_count < len(names)
        with progress_bar(len(names), description, unit, is_shown, done=done_count) as bar:
            while waiting := [name for name in order if not self._is_settled(name)]:
                claimed_count = 0
                for name in waiting:
                    if not self._opened(self.process.rank).exists():
                        return  # another process has all results, and has removed them
                    with self._locked(name) as is_own:
                        if is_own and not self._is_settled(name):
                            claimed_count += 1
                            yield from self._begin(name)
                    bar.update(self.count(names) - bar.n)
                if not claimed_count:
                    time.sleep(WAIT_S)

    def _begin(self, name: str) -> Iterator[str]:
        """Yield an item, unless a process has begun with it and did not live to end."""
        begun = self._file(name, "begun")
        if begun.exists():
            self.skip(name, f"{name}: {KILLED}")
            begun.unlink()
            return
        begun.touch()
        with nullcontext() if self.process.is_alone else stopping_cleanly():
            try:
                yield name
            finally:
                begun.unlink(missing_ok=True)

    def _forget_earlier(self, names: Sequence[str]) -> None:
        """Forget what an earlier start has skipped or was killed at, unless torchrun has restarted this one."""
        for name in () if self.process.is_restarted else names:
            earlier = [path for ending in ("begun", "skipped") if (path := self._file(name, ending)).exists()]
            if earlier:
                with self._locked(name) as is_own:
                    for path in earlier if is_own else ():
                        path.unlink(missing_ok=True)

    @contextmanager
    def _locked(self, name: str) -> Iterator[bool]:
        """Yields: whether this process holds the item's lock inside; False if another does."""
        lock = FileLock(self._file(name, "lock"))
        try:
            lock.acquire(blocking=False)
        except Timeout:
            yield False
            return
        try:
            yield True
        finally:
            lock.release()

    def store(self, name: str, value: list[Any]) -> None:
        """Keep an item's result: numbers, texts, lists, dictionaries and arrays."""
        with atomic_write(self._file(name, "done")) as file:
            file.write(zlib.compress(encode(value), 1))

    def skip(self, name: str, reason: str) -> None:
        """Note why an item has no result."""
        with atomic_write(self._file(name, "skipped")) as file:
            file.write(reason.encode(errors="surrogateescape"))

    def read(self, name: str) -> list[Any]:
        """Raises: InputError if the result is missing or corrupt."""
        path = self._file(name, "done")
        try:
            return decode(zlib.decompress(path.read_bytes()))
        except (OSError, zlib.error, CorruptEntryError):
            raise InputError("missing or corrupt; remove it, and start again", path=path) from None

    def find_skipped(self) -> dict[str, str]:
        """Return why items were skipped, by name."""
        reasons = {}
        for name in self._files:
            with suppress(FileNotFoundError):
                reasons[name] = self._file(name, "skipped").read_bytes().decode(errors="surrogateescape")
        return reasons

    def check_complete(self, option: str) -> None:
        """Raises: InputError if an item is neither done nor skipped; `option` is that of the jobs that do."""
        missing = [name for name in self._files if not self._is_settled(name)]
        if missing:
            message = (
                f"{len(missing)} of {len(self._files)} scans have no result of these options yet, such as "
                f"{missing[0]}; run their jobs with {option} to the end"
            )
            raise InputError(message, path=self.folder.parent, option=option)

    def describe(self, names: Sequence[str]) -> str:
        """Say how many of these items are done."""
        done = sum(map(self.is_done, names))
        return f"{done} of {len(names)} scans done, {self.count(names) - done} skipped"

    def is_done(self, name: str) -> bool:
        return self._file(name, "done").exists()

    def count(self, names: Sequence[str]) -> int:
        return sum(map(self._is_settled, names))

    def close(self) -> None:
        """Remove all results, unless items were skipped, which the next start tries again.

        Wait for processes that torchrun has not started yet: they would take the folder for that of new work.
        """
        if self.find_skipped():
            return
        while not all(self._opened(rank).exists() for rank in range(self.process.world_size)):
            time.sleep(WAIT_S)
        trash = make_room_beside(self.folder)
        with suppress(FileNotFoundError):
            self.folder.rename(trash)
        shutil.rmtree(trash, ignore_errors=True)

    def _is_settled(self, name: str) -> bool:
        return self.is_done(name) or self._file(name, "skipped").exists()

    def _file(self, name: str, ending: str) -> Path:
        return self._files[name].with_suffix(f".{ending}")


@contextmanager
def stopping_cleanly() -> Iterator[None]:
    """Inside, SIGTERM, by which torchrun ends the others when a process dies, ends this one as Ctrl-C does."""
    earlier = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, earlier)


def digest(values: Any) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True, default=str).encode()).hexdigest()[:32]
