"""HTTP downloads that resume after a broken connection or the death of the process."""

from __future__ import annotations

import hashlib
import logging
import os
import re
import time
from pathlib import Path

import requests
from requests.adapters import HTTPAdapter
from urllib3.util import Retry

from p2ch13.util.errors import InputError
from p2ch13.util.progress import byte_progress_bar

log = logging.getLogger(__name__)

CHUNK_BYTES = 2**16  # the most that a broken connection loses
TIMEOUT_S = (10.0, 60.0)  # to connect; between two pieces of a response
TRIES = 5  # in a row without a new byte
BACKOFF_S = 1.0  # wait before the second try; doubles from try to try
RETRIED_STATUSES = (429, *range(500, 600))
OK, PARTIAL_CONTENT, NO_SUCH_RANGE = 200, 206, 416


class DownloadError(InputError):
    """A file cannot be downloaded, or is not the expected one."""


def fetch(url: str, path: Path, size: int | None = None, md5: str | None = None) -> None:
    """Download a file, or resume its download; keep an existing file whose MD5 is right.

    Until it is complete, its bytes are in `<name>.part`.

    Args: size, md5: of the whole file; None if unknown.
    Raises: DownloadError.
    """
    if path.exists() and (md5 is None or md5_of(path) == md5):
        return
    part = part_of(path)
    part.touch()
    if size is not None and part.stat().st_size > size:
        os.truncate(part, 0)
    retry = Retry(TRIES - 1, status_forcelist=RETRIED_STATUSES, backoff_factor=BACKOFF_S, raise_on_status=False)
    with requests.Session() as session:
        for scheme in ("http://", "https://"):
            session.mount(scheme, HTTPAdapter(max_retries=retry))
        try:
            fetch_part(session, url, part, size)
        except DownloadError as error:
            if part.stat().st_size == 0:
                part.unlink()
            raise DownloadError(error.message, path=path) from None
    if md5 is not None and (actual := md5_of(part)) != md5:
        part.unlink()
        raise DownloadError(f"its MD5 is {actual} and should be {md5}", path=path)
    part.replace(path)


def part_of(path: Path) -> Path:
    return path.with_name(f"{path.name}.part")


def md5_of(path: Path) -> str:
    digest = hashlib.md5(usedforsecurity=False)
    with path.open("rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()


def fetch_part(session: requests.Session, url: str, part: Path, size: int | None) -> None:
    """Request the missing bytes until the file is complete. `Retry` repeats requests, but resumes no response."""
    failures = 0
    while (done := part.stat().st_size) != size and not fetch_rest(session, url, part, size):
        failures = 1 if part.stat().st_size > done else failures + 1
        if failures == TRIES:
            raise DownloadError(f"the connection to {url} broke {TRIES} times in a row")
        log.info(f"{part.stem}: the connection broke; resuming after {part.stat().st_size:,} bytes.")
        time.sleep(BACKOFF_S * 2 ** (failures - 1))


def fetch_rest(session: requests.Session, url: str, part: Path, size: int | None) -> bool:
    """Append the bytes after those in `part`. Returns: whether the file is complete."""
    start = part.stat().st_size
    headers = {"Accept-Encoding": "identity"}  # ranges count bytes of the file, not of a compressed response
    if start:
        headers["Range"] = f"bytes={start}-"
    try:
        response = session.get(url, headers=headers, stream=True, timeout=TIMEOUT_S)
    except requests.RequestException as error:
        raise DownloadError(f"no response from {url} ({type(error).__name__})") from None
    with response:
        status = response.status_code
        if status not in (OK, PARTIAL_CONTENT, NO_SUCH_RANGE):
            raise DownloadError(f"{url} responds with {status} {response.reason}")
        first, whole_size = content_range(response)
        if first != (0 if status == OK else start):
            os.truncate(part, 0)
            return False
        if size is not None and whole_size not in (None, size):
            raise DownloadError(f"{whole_size:,} bytes at {url}, and {size:,} are expected")
        return write(response, part, first, whole_size if size is None else size)


def content_range(response: requests.Response) -> tuple[int, int | None]:
    """Return the position of the first byte (-1: unknown) and the file's size (None: unknown); RFC 9110, 14.4."""
    if response.status_code == OK:
        length = response.headers.get("Content-Length", "")
        return 0, int(length) if length.isdigit() else None
    match = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", "").strip())
    return (int(match[1]), None if match[2] == "*" else int(match[2])) if match else (-1, None)


def write(response: requests.Response, part: Path, start: int, size: int | None) -> bool:
    """Write a response at its position. Returns: whether the file is complete."""
    with byte_progress_bar(size, part.stem, start) as bar, part.open("r+b") as file:
        file.truncate(start)
        file.seek(start)
        try:
            for chunk in response.iter_content(CHUNK_BYTES):
                file.write(chunk)
                bar.update(len(chunk))
                if size is not None and file.tell() > size:
                    file.truncate(0)
                    raise DownloadError(f"the server sends more than {size:,} bytes")
        except requests.RequestException:
            return False
        finally:
            file.flush()
            os.fsync(file.fileno())
        return size is None or file.tell() == size
