"""Read CSV tables as spreadsheets and other programs write them.

`csv.DictReader` needs to be told the separator and the encoding, takes blanks and the case of names for a part of them,
and takes 1.4 times as long where most rows are skipped. pandas guesses separators, but not decimal commas.
"""

from __future__ import annotations

import codecs
import csv
import gzip
import math
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, TextIO

from p2ch13.util.contents import HEAD_BYTES, describe_content
from p2ch13.util.errors import InputError, one_line

SEPARATORS = ",;\t|"
SEPARATOR_LINE = "sep="  # which a spreadsheet may put above the header
SIGN_NAMES = {".": "point", ",": "comma"}
GZIP_HEAD = b"\x1f\x8b"
# Characters that show nothing: blanks, those that do not break a line, marks of byte order and of direction.
INVISIBLE = "".join(
    [
        *map(chr, (0, *range(0x09, 0x0E), *range(0x1C, 0x21), 0x85, 0xA0, 0xAD, 0x1680, 0x180E)),
        *map(chr, (*range(0x2000, 0x2010), *range(0x2028, 0x2030), *range(0x205F, 0x206A), 0x3000, 0xFEFF)),
    ]
)
BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # begins as that of UTF-16
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
# Spreadsheets write TRUE in the language of their menus.
TRUE_WORDS = ("true", "t", "yes", "y", "wahr", "ja", "vrai", "oui", "verdadero", "vero", "verdadeiro", "waar", "sant")
FALSE_WORDS = ("false", "f", "no", "n", "falsch", "nein", "faux", "non", "falso", "onwaar", "falskt")
UNKNOWN_WORDS = ("", "na", "n/a", "<na>", "#n/a", "nan", "none", "null", "nil", "unknown", "-", "?")
FLAGS: dict[str, bool | None] = {
    **dict.fromkeys(TRUE_WORDS, True),
    **dict.fromkeys(FALSE_WORDS, False),
    **dict.fromkeys(UNKNOWN_WORDS),
}


class DecimalSign:
    """The decimal sign of a table's numbers, a point or a comma: that of the first number that has one."""

    def __init__(self) -> None:
        self._sign: str | None = None

    def read(self, text: str) -> float:
        """Read a finite number. Raises: ValueError for anything else, and for the other decimal sign."""
        value = parse_number(text)
        sign = next((sign for sign in SIGN_NAMES if sign in text), None)
        self._sign = self._sign or sign
        if sign != self._sign and sign is not None:
            raise ValueError(f"{text!r} has a decimal {SIGN_NAMES[sign]}, which no number before it has")
        return value


class Row(dict[str, str]):
    """A row's fields by the names of the columns that were asked for, without invisible characters around them."""

    def __init__(self, fields: Mapping[str, str], decimal: DecimalSign) -> None:
        super().__init__(fields)
        self._decimal = decimal

    def number(self, column: str) -> float:
        """Read a finite number, with a decimal point or comma. Raises: ValueError."""
        return self._decimal.read(self[column])

    def flag(self, column: str) -> bool | None:
        """Read TRUE, 1, 1.0 and the like; None: unknown. Raises: ValueError."""
        text = self[column].casefold()
        if text in FLAGS:
            return FLAGS[text]
        try:
            return {0.0: False, 1.0: True}[parse_number(text)]
        except (ValueError, KeyError):
            raise ValueError(f"{column} is {self[column]!r} instead of True or False, 1 or 0") from None


class Column(NamedTuple):
    """A column to read: its name in a `Row`, other names that files have for it, and whether a file may lack it."""

    name: str
    others: tuple[str, ...] = ()
    is_optional: bool = False


class Table:
    """An open CSV file, read row by row.

    Attributes: `places`, name of each column that is read and found -> index of its field.
    Raises: InputError without a column that is not optional, naming those that are there, or with two of one name.
    """

    def __init__(self, path: Path, file: TextIO, columns: Sequence[Column]) -> None:
        self.path = path
        self._line_count, header_line, separator = read_header(file)
        header = {each: split_line(header_line, each) for each in separator or SEPARATORS}
        found = {each: find_columns(names, columns) for each, names in header.items()}
        separator = max(header, key=lambda each: len(found[each]))  # the first of several
        self._header, self.places = header[separator], found[separator]
        self._check_columns(columns)
        self._last = max(self.places.values())
        self._reader = csv.reader(clean_lines(file, separator), delimiter=separator, skipinitialspace=True, strict=True)
        self._decimal = DecimalSign()

    def __iter__(self) -> Iterator[tuple[int, list[str]]]:
        """Yield the line and the fields of each row that is not empty. Raises: InputError for one of another length."""
        try:
            for fields in self._reader:
                is_usual = len(fields) == len(self._header) and fields[0]
                if is_usual or any(field.strip(INVISIBLE) for field in fields):
                    yield self._line, fields if is_usual else self._fit(fields)
        except csv.Error as error:
            message = f"{error}, as a quotation mark that is not closed leaves it; correct it"
            raise InputError(message, path=self.path, line=self._line) from None

    def row(self, fields: Sequence[str]) -> Row:
        """Return a row's fields by column."""
        return Row({name: fields[place].strip(INVISIBLE) for name, place in self.places.items()}, self._decimal)

    @property
    def _line(self) -> int:
        return self._line_count + self._reader.line_num

    def _fit(self, fields: list[str]) -> list[str]:
        """Drop empty fields behind the last column; add empty ones, which spreadsheets omit, if they are not read."""
        count = len(self._header)
        if len(fields) <= self._last or any(field.strip(INVISIBLE) for field in fields[count:]):
            message = f"{len(fields)} fields, the header has {count}; correct or remove the row"
            raise InputError(message, path=self.path, line=self._line)
        return [*fields[:count], *[""] * (count - len(fields))]

    def _check_columns(self, columns: Sequence[Column]) -> None:
        missing = [column.name for column in columns if column.name not in self.places and not column.is_optional]
        if missing:
            there = ", ".join(filter(None, self._header)) or "empty"
            message = f"no column {', '.join(missing)}; its first line must name the columns, and is: {there}"
            raise InputError(message, path=self.path)
        keys = [as_key(name) for name in self._header]
        for name, place in self.places.items():
            if keys.count(keys[place]) > 1:
                raise InputError(f"two columns {name}; rename or remove one", path=self.path)


@contextmanager
def open_table(path: Path, columns: Sequence[Column]) -> Iterator[Table]:
    """Open a CSV file, which may be compressed by gzip.

    It may be in UTF-8, UTF-16 or Latin-1, with commas, semicolons (and decimal commas), tabs or bars between its
    fields. Columns are found by name, in any order, whatever their case, blanks and underscores. Empty rows, and empty
    fields at a row's end, count for nothing.
    Raises: InputError for a file that is missing or no such table, also while it is read.
    """
    with open_text(path) as file:
        yield Table(path, file, columns)


@contextmanager
def open_text(path: Path) -> Iterator[TextIO]:
    """Open a text file, which may be compressed by gzip. Bytes that are no UTF-8 become surrogates, as in file names.

    Raises: InputError if it is missing, of another kind, or cannot be read, also while it is read.
    """
    try:
        with path.open("rb") as raw:
            is_compressed = raw.read(len(GZIP_HEAD)) == GZIP_HEAD or path.suffix == ".gz"
        open_file = gzip.open if is_compressed else open
        with open_file(path, "rb") as content:
            head = content.read(HEAD_BYTES)
        kind = describe_content(head) or ("an archive; unpack it, or save it as CSV" if head[:2] == b"PK" else None)
        if kind is not None and head:
            raise InputError(f"not a CSV file, but {kind}", path=path)
        encoding = find_encoding(head)
        errors = "surrogateescape" if encoding == "utf-8-sig" else "strict"
        with open_file(path, "rt", newline="", encoding=encoding, errors=errors) as file:
            yield file
    except FileNotFoundError:
        raise InputError(f"no such file; put {path.name} there, or correct its path", path=path) from None
    except (UnicodeError, EOFError, zlib.error, OSError) as error:
        raise InputError(f"not a CSV file ({one_line(error)}); copy or download it again", path=path) from None


def find_encoding(head: bytes) -> str:
    """Find the encoding of a text by its byte order mark, or by the zero bytes of UTF-16; else it is UTF-8."""
    for mark, encoding in BYTE_ORDER_MARKS:
        if head.startswith(mark):
            return encoding
    zeros = [byte == 0 for byte in head[:4]]
    if zeros == [False, True, False, True]:
        return "utf-16-le"
    return "utf-16-be" if zeros == [True, False, True, False] else "utf-8-sig"


def read_header(file: TextIO) -> tuple[int, str, str | None]:
    """Read up to the first line that is not empty, as a spreadsheet's first rows may be.

    Returns: the number of lines, that line, and the separator that a line before it names.
    """
    separator, line_count = None, 0
    for line in clean_lines(file):
        line_count += 1
        text = line.strip(INVISIBLE)
        if text.casefold().startswith(SEPARATOR_LINE) and separator is None:
            separator = line.strip("\r\n\ufeff ")[len(SEPARATOR_LINE) :][:1] or None
        elif text.strip(SEPARATORS + '"'):
            return line_count, line, separator
    return line_count, "", separator


def clean_lines(lines: Iterable[str], separator: str = ",") -> Iterator[str]:
    """Replace zero bytes, which DICOM pads UIDs with, by blanks, and drop blanks behind quoted fields.

    The csv module of Python 3.10 refuses the first; in its strict mode, which finds quotes that are not closed, any
    version refuses the second.
    """
    behind_quotes = re.compile(rf'"[ \t\xa0]+(?=[{separator}\r\n]|$)')
    for line in lines:
        plain = line.replace("\0", " ")
        yield behind_quotes.sub('"', plain) if '"' in plain else plain


def split_line(line: str, separator: str) -> list[str]:
    """Split a header into the names of its columns. Returns: none, if it is not written with this separator."""
    try:
        (fields,) = csv.reader(clean_lines([line], separator), delimiter=separator, skipinitialspace=True)
    except (csv.Error, ValueError):
        return []
    return [field.strip(INVISIBLE) for field in fields]


def find_columns(header: Sequence[str], columns: Sequence[Column]) -> dict[str, int]:
    """Return the name of each column that a header has -> its index, under the first name that is there."""
    keys = [as_key(name) for name in header]
    places = {}
    for column in columns:
        names = [as_key(name) for name in (column.name, *column.others)]
        name = next((name for name in names if name in keys), None)
        if name is not None:
            places[column.name] = keys.index(name)
    return places


def as_key(name: str) -> str:
    """Return what tells the names of columns apart: letters and digits, whatever their case."""
    return "".join(filter(str.isalnum, name)).casefold()


def parse_number(text: str) -> float:
    """Read a finite number, with a decimal point or comma. Raises: ValueError."""
    plain = text.replace(",", ".").replace("\N{MINUS SIGN}", "-").replace("_", " _")  # only Python reads 1_0 as 10
    try:
        value = float(plain)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ValueError(f"{text!r} is not a number")
    return value
