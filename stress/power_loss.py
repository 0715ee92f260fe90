"""Cut the power under precache, training and prediction: what was not synced is gone, and the rest must do.

    python -m stress.power_loss

Each command runs once while a library logs its writes (see `stress.faults`). Then its files are laid as a disk may have
them after the power was lost at some moment: with the contents of the last sync, and with the names of that moment, or
with those of their folder's last sync. Files of an earlier run must be whole, results old or new, and the same command
then leaves what it leaves undisturbed; a cache may be refused as corrupt, and is then removed as the message says.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from p2ch13.util.errors import run_command
from p2ch13.util.options import positive_int
from stress.command_line import add_work_dir, make_parser, run_part
from stress.faults import Faults, Operation, compile_library, is_possible
from stress.io_errors import NOT_POSSIBLE, spread
from stress.report import LostError, Row
from stress.warm import in_new_process, run_copy
from stress.work import Work, prepare_work

Files = dict[str, bytes]  # path -> content


@dataclass(eq=False)
class Inode:
    """A file, whatever its name: what was written, and what of it is certainly on disk."""

    data: bytearray = field(default_factory=bytearray)
    synced: bytes = b""


class Disk:
    """The files of a folder, as they are written and as they outlive a loss of power."""

    def __init__(self, folder: Path) -> None:
        """Begin with all of a folder's files on disk."""
        self.inodes: dict[int, Inode] = {}
        self.names: dict[str, Inode] = {}
        for path in folder.rglob("*"):
            if path.is_file():
                content = path.read_bytes()
                self.names[str(path)] = self.inodes[path.stat().st_ino] = Inode(bytearray(content), content)
        self.synced_names = dict(self.names)

    def apply(self, done: Operation) -> None:
        """Follow an operation of the log."""
        if done.what == "r":
            self._rename(done.name, done.data.decode(errors="surrogateescape"))
        elif done.what == "u":
            self.names.pop(done.name, None)
        elif done.what == "c":
            self._create(done)
        elif done.what == "s" and Path(done.name).is_dir():
            self._sync_names(done.name)
        elif (inode := self.inodes.get(done.inode)) is not None:  # nameless files are not on disk after all
            self._change(inode, done)

    def _rename(self, old: str, new: str) -> None:
        for name in [name for name in self.names if name == old or name.startswith(f"{old}/")]:
            self.names[new + name[len(old) :]] = self.names.pop(name)

    def _create(self, done: Operation) -> None:
        inode = self.inodes.get(done.inode)
        if inode is None or self.names.get(done.name) is not inode:  # numbers are used again
            self.names[done.name] = self.inodes[done.inode] = Inode()
        elif done.offset == 0:
            inode.data.clear()

    def _sync_names(self, folder: str) -> None:
        kept = {name: inode for name, inode in self.synced_names.items() if str(Path(name).parent) != folder}
        self.synced_names = kept | {n: inode for n, inode in self.names.items() if str(Path(n).parent) == folder}

    def _change(self, inode: Inode, done: Operation) -> None:
        if done.what == "s":
            inode.synced = bytes(inode.data)
            return
        inode.data.extend(bytes(max(0, done.offset - len(inode.data))))
        if done.what == "t":
            del inode.data[done.offset :]
        else:
            inode.data[done.offset : done.offset + len(done.data)] = done.data

    def after_power_loss(self) -> list[Files]:
        """Return what may be there: synced contents under the names of now, and under those that are synced."""
        return [{name: inode.synced for name, inode in names.items()} for names in (self.names, self.synced_names)]


def main(sys_argv: Sequence[str] | None = None) -> int:
    """Returns: 1 if something was lost."""
    return run_part("power loss", cut_all, build_parser().parse_args(sys_argv))


def build_parser() -> argparse.ArgumentParser:
    parser = make_parser("stress.power_loss", __doc__)
    parser.add_argument("--count", type=positive_int, help="states of the disk, of each command; default: each one")
    add_work_dir(parser)
    return parser


def cut_all(count: int | None = None, work_dir: Path | None = None) -> list[Row]:
    """Raises: LostError."""
    if not is_possible():
        return [Row("power loss", NOT_POSSIBLE, "", 0, 0.0)]
    with tempfile.TemporaryDirectory(dir=work_dir) as name:
        folder = Path(name).resolve()
        watched = folder / "watched"
        rows: list[Row] = in_new_process(cut_each, folder, watched, count, environment=compile_library(folder, watched))
        return rows


def cut_each(folder: Path, watched: Path, count: int | None) -> list[Row]:
    """In a process with the library: cut the power under each command."""
    faults = Faults()
    return [cut_power_under(work, faults, count) for work in prepare_work(folder, watched)]


def cut_power_under(work: Work, faults: Faults, count: int | None) -> Row:
    start = time.monotonic()
    states = record_states(work, faults)
    new = {str(path): path.read_bytes() for path in work.folder.rglob("*") if path.is_file()}
    chosen = [states[number - 1] for number in spread(len(states), count)]
    refused_count = 0
    for ndx, state in enumerate(chosen, start=1):
        what = f"{work.name}, state {ndx} of {len(chosen)} after a loss of power"
        lay(work, state)
        work.check_old_or_new(what, new)
        refused_count += finish(work, what)
        work.check(what)
    return Row(
        f"power loss under {work.name}",
        f"{len(chosen)} runs to the end",
        f"{len(chosen)} of {len(states)} states that unsynced writes leave",
        len(chosen),
        time.monotonic() - start,
        note=f"results old or new, then bit for bit; {refused_count} caches refused as corrupt",
    )


def record_states(work: Work, faults: Faults) -> list[Files]:
    """Run a command; return the different states that a loss of power during it can leave, in their order."""
    work.reset()
    disk = Disk(work.folder)
    faults.start()
    run_copy(work.command)
    states: dict[frozenset[tuple[str, bytes]], Files] = {}
    for operation in faults.read_log():
        disk.apply(operation)
        if operation.what in "csru":  # others change nothing that is synced
            for files in disk.after_power_loss():
                states.setdefault(frozenset(files.items()), files)
    return list(states.values())


def lay(work: Work, state: Files) -> None:
    """Write the files of a state in place of those of the command's folder."""
    work.empty()
    for name, content in state.items():
        path = Path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def finish(work: Work, what: str) -> bool:
    """Run a command again to its end. Returns: whether it first refused the cache. Raises: LostError."""
    done = run_copy(work.command)
    is_refused = not done.is_done and "corrupt cache" in done.output
    if is_refused:
        done.check_one_line(what)
        work.remove_cache()
        done = run_copy(work.command)
    if not done.is_done:
        raise LostError(f"{what}: status {done.status}, {done.output[-2000:]}")
    return is_refused


if __name__ == "__main__":
    run_command(main)
