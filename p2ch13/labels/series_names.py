"""Match the series that a table names to those that are known, whatever a spreadsheet has made of the names."""

from __future__ import annotations

import logging
import re
import unicodedata
from collections.abc import Collection
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from p2ch13.util.errors import InputError
from p2ch13.util.files import as_text
from p2ch13.util.process_rank import ProcessRank
from p2ch13.util.tables import INVISIBLE
from p2ch13.volumes.files import SCAN_SUFFIXES

log = logging.getLogger(__name__)

QUOTES = "'\"`\N{RIGHT SINGLE QUOTATION MARK}\N{LEFT SINGLE QUOTATION MARK}\N{ACUTE ACCENT}"
SUFFIXES = (*SCAN_SUFFIXES, ".raw", ".zraw", ".dcm")
NUMBER = re.compile(r"([0-9]+)(\.0+)?")  # pandas writes 7.0 for the 7 of a column with an empty field
FIRST_CHANNEL = "_0000"  # at the end of the names of nnU-Net's images, not of its cases
CUT_LENGTH = 16  # the least of a name that is called cut off: patient1 is no part of patient10


class OtherSeriesError(InputError):
    """All rows of a file are about series that are not on disk."""


class Place(NamedTuple):
    """A row's line, and the name of its series there."""

    line: int
    text: str


def bare_name(text: str) -> str:
    """Return a name of a series without the blanks, the quotes and a spreadsheet's = around it."""
    return text.strip(INVISIBLE + QUOTES + "=")


def plain_name(text: str) -> str:
    """Return a name of a series without folders and a scan's suffix either."""
    name = bare_name(as_text(text)).replace("\\", "/").rstrip("/").rpartition("/")[2]
    suffix = next((suffix for suffix in SUFFIXES if name.lower().endswith(suffix)), "")
    return bare_name(name[: len(name) - len(suffix)])


def fold_name(text: str) -> str:
    """Return what tells names apart if neither their case, nor how letters are composed, nor leading zeros do."""
    name = unicodedata.normalize("NFC", plain_name(text)).casefold()
    number = NUMBER.fullmatch(name)
    return number[1].lstrip("0") or "0" if number else name


class SeriesNames:
    """The names of a table's series, matched to the series of scans.

    A name is that of the scan that is called so; else of the one that it differs from by blanks, quotes, zero bytes, a
    folder, a suffix, case, leading zeros or nnU-Net's channel alone, if there is one such scan and no other.

    Args: path: of the table; scans: series UIDs; keeps_others: return the bare names of other series too, not None.
    """

    def __init__(self, path: Path, scans: Collection[str], keeps_others: bool = False) -> None:
        self.path, self.scans, self.keeps_others = path, scans, keeps_others
        self._found: dict[str, str | None] = {}  # by the table's name
        self._others: list[Place] = []
        self._respelled: list[Place] = []
        self._row_count = 0

    def find(self, text: str, line: int) -> str | None:
        """Return the series that a row names; None if it is that of no scan."""
        if text not in self._found:
            self._found[text] = self._match(text)
        found = self._found[text]
        self._row_count += 1
        if found != text:
            (self._others if found is None else self._respelled).append(Place(line, text))
        return bare_name(text) if found is None and self.keeps_others else found

    def report(self) -> None:
        """Say, once for the file, which rows name no scan and which name one in another way.

        Raises: OtherSeriesError if no row names a scan, unless names of other series are kept.
        """
        if self._others and not self.keeps_others:
            self._report_others()
        if self._respelled:
            line, text = self._respelled[0]
            counts = f"{len(self._respelled)} of {self._row_count} rows"
            say_once(
                f"{self.path}: {counts} spell their scan in another way, such as {text!r} in line {line}; read as "
                f"{self._found[text]}."
            )

    def _report_others(self) -> None:
        line, text = self._others[0]
        if len(self._others) == self._row_count:
            message = (
                f"none of its {self._row_count} rows is about one of the {len(self.scans)} scans: line {line} names "
                f"{text!r}, and on disk is {min(self.scans, default='none')}; correct its series UIDs, or remove all "
                "rows below its header"
            )
            raise OtherSeriesError(message, path=self.path)
        counts = f"{len(self._others)} of {self._row_count} rows"
        say_once(f"{self.path}: {counts} name no scan on disk, such as {text!r} in line {line}; ignoring them.")
        for line, text in self._others:
            whole = self._find_whole(text)
            if whole is not None:
                say_once(f"{self.path}, line {line}: {text!r} is the beginning of the scan {whole}; is it cut off?")
                break

    def _match(self, text: str) -> str | None:
        if text in self.scans:
            return text
        plain = plain_name(text)
        if plain in self.scans:
            return plain
        for name in (fold_name(plain), fold_name(plain.removesuffix(FIRST_CHANNEL))):
            if len(self._by_folded.get(name, [])) == 1:
                return self._by_folded[name][0]
        return None

    @cached_property
    def _by_folded(self) -> dict[str, list[str]]:
        by_folded: dict[str, list[str]] = {}
        for series_uid in self.scans:
            by_folded.setdefault(fold_name(series_uid), []).append(series_uid)
        return by_folded

    def _find_whole(self, text: str) -> str | None:
        """Find a scan whose name goes on where this one ends."""
        name = fold_name(text)
        if len(name) < CUT_LENGTH:
            return None
        return next((uid for folded, (uid, *_) in self._by_folded.items() if folded.startswith(name)), None)


def say_once(message: str) -> None:
    """Log a warning in the first process alone: all processes of a run read the same files."""
    if ProcessRank.from_environment().is_first:
        log.warning(message)
