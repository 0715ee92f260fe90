"""Tell from a file's first bytes what it is, for messages about a file that is not what its name says."""

from __future__ import annotations

HEAD_BYTES = 1024
LFS_HEAD = b"version https://git-lfs"
# First bytes -> what the file is, and the cure.
SIGNATURES = (
    (LFS_HEAD, "a pointer of Git LFS, not the file itself; run git lfs pull"),
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "a workbook of an office program; save it as CSV"),
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file"),
    (b"\x1f\x8b", "compressed by gzip; unpack it"),
    (b"BZh", "compressed by bzip2; unpack it"),
    (b"\xfd7zXZ\0", "compressed by xz; unpack it"),
    (b"\x28\xb5\x2f\xfd", "compressed by zstd; unpack it"),
    (b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive; unpack it"),
    (b"%PDF-", "a PDF document"),
    (b"\x89PNG\r\n\x1a\n", "a PNG image"),
    (b"\xff\xd8\xff", "a JPEG image"),
    (b"SQLite format 3\0", "an SQLite database"),
    (b"NRRD000", "an NRRD image"),
    (b"ObjectType =", "a MetaImage header"),
    (b"\x93NUMPY", "a NumPy array"),
    (b"\x7fELF", "a program"),
)
HTML_HEADS = (b"<!doctype html", b"<html", b"<head", b"<body")
DOWNLOAD_CURE = "an HTML page, as a failed download or a login page leaves it; download the file again"
MARKS = ((128, b"DICM", "a DICOM file"), (257, b"ustar", "a tar archive; unpack it"), (344, b"n+1\0", "a NIfTI image"))


def describe_content(head: bytes) -> str | None:
    """Say what a file is by its first `HEAD_BYTES` bytes, and what helps; None if they tell nothing."""
    if not head:
        return "empty; copy or download it again"
    for start, description in SIGNATURES:
        if head.startswith(start):
            return description
    for offset, mark, description in MARKS:
        if head[offset:].startswith(mark):
            return description
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if text.startswith(HTML_HEADS):
        return DOWNLOAD_CURE
    if text.startswith(b"<?xml"):
        return DOWNLOAD_CURE if any(each in text for each in HTML_HEADS) else "an XML document"
    if not head.strip(b"\0"):
        return "nothing but zero bytes, as an interrupted download leaves it; download it again"
    return None
