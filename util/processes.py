"""Work spread over processes, with a progress bar, that ends cleanly on Ctrl-C and with its parent."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

import SimpleITK as sitk
from threadpoolctl import threadpool_limits

from p2ch13.util.errors import InputError
from p2ch13.util.progress import progress_bar

Item = TypeVar("Item")
Result = TypeVar("Result")


def map_in_processes(
    function: Callable[[Item], Result],
    items: Iterable[Item],
    worker_count: int,
    description: str,
    unit: str,
    start_worker: Callable[..., None] | None = None,
    start_arguments: tuple[Any, ...] = (),
) -> Generator[Future[Result], None, None]:
    """Call a function with each item in one of several processes; yields each call's future when it has ended.

    Args:
        function, start_worker: of a module, so that a process can find them by name; `start_worker` is called once in
            each process.
        description, unit: for the progress bar.
    Raises: InputError if a process is killed. After that, after Ctrl-C, and when the caller stops asking, what is under
        way comes to its end and nothing else is begun.
    """
    executor = ProcessPoolExecutor(worker_count, initializer=_start, initargs=(start_worker, start_arguments))
    try:
        futures = [executor.submit(function, item) for item in items]
        with progress_bar(len(futures), description, unit) as bar:
            for future in as_completed(futures):
                if isinstance(future.exception(), BrokenProcessPool):
                    raise InputError(
                        "a worker process was killed; try again, with fewer --num-workers if memory ran out"
                    )
                bar.update()
                yield future
    finally:
        executor.shutdown(cancel_futures=True)


def _start(start_worker: Callable[..., None] | None, start_arguments: tuple[Any, ...]) -> None:
    """Ctrl-C goes to all processes of a terminal: the parent alone reacts, and lets the others end what they are at."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # not the parent's way to take it
    threading.Thread(target=_end_with_parent, daemon=True).start()
    # As many processes as cores are at work already; their threads would wait for each other.
    threadpool_limits(1)
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    if start_worker is not None:
        start_worker(*start_arguments)


def _end_with_parent() -> None:
    """A parent that is killed cannot tell its processes that there is nothing left to do."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
