"""Run commands without what other systems than Linux lack: `python -m tests.support.other_systems SYSTEM DATA OUTPUT`.

Worker processes are started anew, as on those systems, and import this module as well, so that they lack the same.
"""

from __future__ import annotations

import errno
import mmap
import multiprocessing
import os
import signal
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

NOT_ON_MACOS = {
    os: ("posix_fallocate", "posix_fadvise", "sched_getaffinity", "sched_setaffinity", "memfd_create"),
    mmap: ("MADV_HUGEPAGE", "MADV_DONTFORK", "MADV_REMOVE"),
}
NOT_ON_WINDOWS = {
    os: (*NOT_ON_MACOS[os], "fork", "getuid", "geteuid", "killpg", "fchmod", "mkfifo"),
    mmap: [name for name in dir(mmap) if name.startswith("MADV_")],
    signal: ("SIGHUP", "SIGUSR1", "SIGUSR2", "SIGALRM", "SIGPIPE", "SIGQUIT", "setitimer"),
}
MODULES_NOT_ON_WINDOWS = ("fcntl", "resource", "pwd", "grp", "termios")
LINUX_FOLDERS = ("/proc", "/sys", "/dev/shm")
SYSTEMS = ("macos", "windows")


def hide(system: str) -> None:
    """Take from this process what a system lacks, before anything of the package or its libraries is imported."""
    for module, names in (NOT_ON_WINDOWS if system == "windows" else NOT_ON_MACOS).items():
        for name in names:
            if hasattr(module, name):
                delattr(module, name)
    warnings.filterwarnings("error", category=EncodingWarning, module="p2ch13")  # they have other encodings
    sys.addaudithook(refuse_linux_folders)
    replace(os, "stat", refusing(os.stat, is_linux_folder))
    if system == "windows":
        for name in MODULES_NOT_ON_WINDOWS:
            sys.modules[name] = None  # type: ignore[assignment]  # an import of it fails
        replace(os, "open", refusing(os.open, os.path.isdir, PermissionError))
        replace(os, "kill", refusing(os.kill, lambda _: True, AssertionError))  # it would end the process
        replace(os, "symlink", refusing(os.symlink, lambda _: True))
        from p2ch13.util import files

        replace(files, "IS_WINDOWS", True)


def replace(module: Any, name: str, value: Any) -> None:
    setattr(module, name, value)


def refusing(
    call: Callable[..., Any], is_refused: Callable[[Any], bool], error: type[Exception] = FileNotFoundError
) -> Callable[..., Any]:
    """Wrap a call so that it fails for a first argument that is refused."""

    def checked(first: Any, *args: Any, **kwargs: Any) -> Any:
        if is_refused(first):
            raise error(
                errno.ENOENT, "not on this system", os.fspath(first) if isinstance(first, os.PathLike) else first
            )
        return call(first, *args, **kwargs)

    return checked


def is_linux_folder(path: object) -> bool:
    return isinstance(path, str | bytes | os.PathLike) and os.fsdecode(path).startswith(LINUX_FOLDERS)


def refuse_linux_folders(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "open" and is_linux_folder(arguments[0]):
        raise FileNotFoundError(errno.ENOENT, "not on this system", arguments[0])


def run_all(data_dir: Path, output: Path) -> None:
    """Cache crops, train an epoch, search a scan and score a network that marks tissue: all into a folder."""
    from p2ch13 import evaluate, precache
    from p2ch13.predict import main as predict
    from p2ch13.training import __main__ as training
    from tests.support.networks import write_pixel_network

    data = ["--data-dir", str(data_dir)]
    cached = [*data, "--cache-dir", str(output / "cache"), "--preset", "strong"]
    computed = ["--precision", "fp32", "--threads", "1"]
    folders = ["--models-dir", str(output / "models"), "--runs-dir", str(output / "runs")]
    sizes = ["--depth", "2", "--samples-per-epoch", "32", "--val-stride", "2", "--num-workers", "1"]
    assert precache.main([*cached, "--num-workers", "1"]) == 0
    training.main([*cached, *computed, *folders, *sizes])
    checkpoint = write_pixel_network(output / "net.state", -700, weight=0.1, bias=-5)
    found = ["--checkpoint", str(checkpoint), *computed, "--no-lung-mask"]
    assert predict([str(data_dir / "subset0" / "1.2.0.mhd"), *found, "--output", str(output / "found")]) == 0
    assert evaluate.main([*data, *found, "--val-stride", "2", "--output", str(output / "scores")]) == 0


if sys.argv[1:2] and sys.argv[1] in SYSTEMS:  # in a worker process, too
    hide(sys.argv[1])

if __name__ == "__main__":
    multiprocessing.set_start_method("spawn")
    run_all(*map(Path, sys.argv[2:]))
