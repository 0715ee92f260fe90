"""Worker processes with a progress bar that end cleanly on Ctrl-C and with their parent."""

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

from p2ch13.util.errors import InputError, is_out_of_memory
from p2ch13.util.interruption import next_signal_ends
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
    """Call a function on each item in worker processes and yield the future of each finished call.

    After an error, after Ctrl-C, and if the caller stops early, calls in progress finish and no others start. A second
    Ctrl-C ends the process at once, and its workers with it.

    Args:
        function, start_worker: functions of a module, which processes can import by name; `start_worker` is called once
            in each process.
        description, unit: for the progress bar.
    Raises: InputError if a process is killed.
    """
    executor = ProcessPoolExecutor(worker_count, initializer=_start, initargs=(start_worker, start_arguments))
    try:
        futures = [executor.submit(function, item) for item in items]
        with progress_bar(len(futures), description, unit) as bar:
            for future in as_completed(futures):
                if isinstance(future.exception(), BrokenProcessPool):
                    raise InputError("a worker process was killed; if memory ran out, use fewer processes")
                bar.update()
                yield future
    except KeyboardInterrupt:
        with next_signal_ends(f"Stopping after the {unit}s in progress; once more ends at once."):
            shut_down(executor)
        raise
    finally:
        shut_down(executor)


def shut_down(executor: ProcessPoolExecutor) -> None:
    """End an executor's processes after the calls in progress."""
    try:
        executor.shutdown(cancel_futures=True)
    except RuntimeError:  # memory ran out before its thread began: nothing else would end the processes
        for process in multiprocessing.active_children():
            process.kill()
        raise


def _start(start_worker: Callable[..., None] | None, start_arguments: tuple[Any, ...]) -> None:
    """Prepare a worker, which ends without a word if memory runs out: the parent has one, the executor a traceback."""
    try:
        _prepare()
        if start_worker is not None:
            start_worker(*start_arguments)
    except Exception as error:
        if is_out_of_memory(error):
            os._exit(1)
        raise


def _prepare() -> None:
    """Have a worker ignore Ctrl-C, which a terminal sends to all processes, and compute on one thread."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # not the parent's handler
    threading.Thread(target=_end_with_parent, daemon=True).start()
    # There are as many workers as cores; more threads would wait for each other.
    threadpool_limits(1)
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)


def _end_with_parent() -> None:
    """Exit when the parent is killed, which then cannot stop its workers."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
