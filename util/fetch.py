"""Files over HTTP, with pooch: a broken download goes on where it stopped, also after this process's death."""

from __future__ import annotations

import logging
import os
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pooch
import requests

from p2ch13.util.errors import InputError
from p2ch13.util.progress import byte_progress_bar

log = logging.getLogger(__name__)

CHUNK_BYTES = 2**16  # a connection that breaks off loses no more than this
TIMEOUT_S = (10.0, 60.0)  # to connect; from one piece of the answer to the next
TRIES = 5  # in a row of which none brings anything new
NO_SUCH_RANGE, TOO_MANY_REQUESTS, SERVER_ERROR = 416, 429, 500


class BrokenDownloadError(Exception):
    """The connection or the server failed: it may do better in a moment."""


def fetch(
    url: str,
    path: Path,
    size: int | None = None,
    md5: str | None = None,
    processor: Callable[[str, str, object], Any] | None = None,
    wait_s: float = 1.0,
) -> Any:
    """Download a file, or go on with it; one that is there and has the right MD5 is not asked for.

    Until it is complete it lies beside `path`, as `<name>.part`.

    Args:
        size, md5: what the file must have; None for what is not known.
        processor: called as pooch calls one, with the name of the complete file.
        wait_s: before the second try; doubled from one to the next.
    Returns: what the processor does; without one the file's name.
    Raises: InputError, naming the file, if it cannot be had or is not what it should be.
    """
    pooch.get_logger().setLevel(logging.WARNING)
    part = part_of(path)
    for leftover in path.parent.glob("tmp*"):  # pooch's, of a process that was killed
        leftover.unlink()
    known_hash = None if md5 is None else f"md5:{md5}"
    downloader = ResumingDownloader(part, size, wait_s)
    try:
        result = pooch.retrieve(url, known_hash, path.name, path.parent, processor=processor, downloader=downloader)
    except InputError:
        if part.exists() and part.stat().st_size == 0:
            part.unlink()
        raise
    except ValueError as error:  # pooch's word for another hash
        part.unlink(missing_ok=True)
        raise InputError(f"{path}: {error} Start again to download it anew") from None
    part.unlink(missing_ok=True)
    return result


def part_of(path: Path) -> Path:
    return path.with_name(f"{path.name}.part")


class ResumingDownloader:
    """What pooch calls to download a file: one that asks for no more than what is missing from `part`.

    Args: part: where the bytes go; size: of the whole file, where it is known; wait_s: see `fetch`.
    """

    def __init__(self, part: Path, size: int | None, wait_s: float) -> None:
        self.part = part
        self.name = part.name.removesuffix(".part")
        self.size = size
        self.wait_s = wait_s

    def __call__(self, url: str, output_file: str, pooch: object) -> None:
        """Raises: InputError, naming the file, if it cannot be had; what came so far stays in `part`."""
        self.part.touch()
        if self.size is not None and self.done > self.size:
            self.part.unlink()
            self.part.touch()
        failures = 0
        while not self.is_complete:
            before = self.done
            try:
                self.fetch_rest(url)
                break
            except (BrokenDownloadError, requests.RequestException) as error:
                failures = 1 if self.done > before else failures + 1
                if failures == TRIES:
                    raise InputError(
                        f"{self.name}: {describe(error)} at {url}, {TRIES} times in a row; {self.done:,} bytes are "
                        "here, start again to go on"
                    ) from None
                log.info(f"{self.name}: {describe(error)}; going on from {self.done:,} bytes.")
                time.sleep(self.wait_s * 2 ** (failures - 1))
        link_or_move(self.part, Path(output_file))

    @property
    def done(self) -> int:
        return self.part.stat().st_size

    @property
    def is_complete(self) -> bool:
        return self.done == self.size

    def fetch_rest(self, url: str) -> None:
        """One request. Raises: BrokenDownloadError or RequestException if another may do better, InputError if not."""
        start = self.done
        headers = {"Accept-Encoding": "identity"}  # ranges are of the file itself, not of a compressed answer
        if start:
            headers["Range"] = f"bytes={start}-"
        try:
            response = requests.get(url, headers=headers, stream=True, timeout=TIMEOUT_S)
        except (requests.exceptions.InvalidURL, requests.exceptions.MissingSchema, requests.exceptions.InvalidSchema):
            raise InputError(f"{url}: no address of a web server; it begins with https://") from None
        with response:
            self.check_status(response, url)
            start = self.check_place(response, start)
            self.check_size(whole_size(response, start), url)
            self.write(response, start)
        if self.size is not None and not self.is_complete:
            raise BrokenDownloadError("the connection broke off")

    def check_status(self, response: requests.Response, url: str) -> None:
        status = response.status_code
        if status == NO_SUCH_RANGE:
            self.part.unlink()
            self.part.touch()
            raise BrokenDownloadError("the server's file ends before the part that is here")
        if status == TOO_MANY_REQUESTS or status >= SERVER_ERROR:
            raise BrokenDownloadError(f"the server answers {status} {response.reason}")
        if status not in (requests.codes.ok, requests.codes.partial_content):
            raise InputError(
                f"{self.name}: the server answers {status} {response.reason} for {url}; look at the address, or name "
                "another server with --mirror"
            )

    def check_place(self, response: requests.Response, start: int) -> int:
        """Where in the file the answer begins."""
        if response.status_code == requests.codes.ok:
            if start:
                log.info(f"{self.name}: this server sends whole files only; from the beginning.")
            return 0
        if content_range(response)[0] != start:
            self.part.unlink()
            self.part.touch()
            raise BrokenDownloadError("the server sends another part than was asked for")
        return start

    def check_size(self, size: int | None, url: str) -> None:
        if self.size is not None and size is not None and size != self.size:
            raise InputError(
                f"{self.name}: {size:,} bytes at {url}, {self.size:,} are expected; name another server with --mirror, "
                "or take what there is with --ignore-checksum"
            )

    def write(self, response: requests.Response, start: int) -> None:
        size = whole_size(response, start) if self.size is None else self.size
        with (
            byte_progress_bar(size, self.name, start) as bar,
            self.part.open("r+b") as file,
        ):
            file.truncate(start)
            file.seek(start)
            try:
                for chunk in response.iter_content(CHUNK_BYTES):
                    file.write(chunk)
                    bar.update(len(chunk))
                    if self.size is not None and file.tell() > self.size:
                        file.truncate(0)
                        raise InputError(f"{self.name}: the server sends more than {self.size:,} bytes; thrown away")
            finally:
                file.flush()
                os.fsync(file.fileno())


def content_range(response: requests.Response) -> tuple[int | None, int | None]:
    """First byte and length of the whole file, as far as `Content-Range: bytes 5-9/10` tells them; RFC 9110, 14.4."""
    match = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", "").strip())
    if match is None:
        return None, None
    return int(match[1]), None if match[2] == "*" else int(match[2])


def whole_size(response: requests.Response, start: int) -> int | None:
    """Of the file on the server, where the answer tells it."""
    if start:
        return content_range(response)[1]
    length = response.headers.get("Content-Length", "")
    return int(length) if length.isdigit() else None


def link_or_move(part: Path, output_file: Path) -> None:
    """Give a complete file a second name, for pooch to check.

    Pooch removes that name when it is stopped by Ctrl-C, and the file's own one stays.
    """
    output_file.unlink(missing_ok=True)
    try:
        os.link(part, output_file)
    except OSError:  # no second names on this file system
        part.replace(output_file)


def describe(error: BaseException) -> str:
    """A failure in a few words; those of requests name objects of Python."""
    if isinstance(error, BrokenDownloadError):
        return str(error)
    if isinstance(error, requests.Timeout):
        return "no answer in time"
    if isinstance(error, requests.ConnectionError) and not isinstance(error, requests.exceptions.SSLError):
        return "no connection"
    if isinstance(error, requests.exceptions.ChunkedEncodingError):
        return "the connection broke off"
    return f"the connection failed ({type(error).__name__})"
