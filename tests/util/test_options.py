from argparse import ArgumentParser, ArgumentTypeError
from dataclasses import dataclass
from pathlib import Path

import pytest

from p2ch13.util.options import (
    NAME_PART,
    REQUIRED,
    Options,
    add_old_names,
    add_options,
    argument,
    as_arguments,
    as_markdown,
    merge,
    option,
    read_values,
)
from tests.support.checks import refused


@dataclass(frozen=True)
class Shape(Options):
    """Shape.

    Not in the help.
    """

    size: int = option(3, "rows", low=1)
    kind: str = option("round", "100% of what is drawn", choices=("round", "square"))
    filled: bool = option(False, "filled")


@dataclass(frozen=True)
class Drawing(Shape):
    """Drawing."""

    out: Path = option(REQUIRED, "folder")
    share: float = option(0.5, "share", above=0, high=1)
    pens: int | str = option("auto", "pens", low=1, choices=("auto",), metavar="auto|N")
    title: str | None = option(None, "title", pattern=NAME_PART, const="untitled")
    layers: tuple[int, ...] | None = option(None, "layers", choices=range(4), shown="all")
    note: str = option("none", "note", pattern=NAME_PART, positional=True)


def parse(*arguments):
    parser = ArgumentParser()
    add_options(parser, Drawing)
    add_old_names(parser, Drawing, {"rows": "size", "painted": "filled", "is_square": "kind"}, {
        "is_square": {True: "square", False: "round"}
    })  # fmt: skip
    return vars(parser.parse_args(arguments)), parser.format_help()


def test_only_what_is_given_comes_back():
    assert parse("--out", "a")[0] == {"out": Path("a")}
    given, _ = parse("--out=a", "--size=4", "--filled", "--pens=2", "--share", "1", "--title", "--layers", "0", "3")
    assert given == {
        "out": Path("a"), "size": 4, "filled": True, "pens": 2, "share": 1.0, "title": "untitled", "layers": [0, 3]
    }  # fmt: skip
    drawing = merge(Drawing, {"size": 2, "kind": "square"}, given)
    assert drawing == Drawing(4, "square", True, 1.0, 2, "untitled", (0, 3), "none", out=Path("a"))
    assert drawing.part(Shape) == Shape(4, "square", True)
    assert parse("--out", "a", "--pens", "auto", "n")[0] == {"out": Path("a"), "pens": "auto", "note": "n"}


def test_help_is_grouped_and_hides_earlier_names(monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    _, text = parse("--out", "a")
    text = text[text.index("options:") :]
    assert text.index("Drawing:") < text.index("--out") < text.index("Shape:") < text.index("--size")
    assert "rows (default: 3)" in text and "100% of what is drawn (default: round)" in text
    assert "--filled, --no-filled" in text and "layers (default: all)" in text
    assert "--rows" not in text and "painted" not in text and "Not in the help" not in text


def test_earlier_names_are_read():
    assert parse("--out=a", "--rows", "9", "--no-painted", "--is-square")[0] == {
        "out": Path("a"), "size": 9, "filled": False, "kind": "square"
    }  # fmt: skip
    assert parse("--out=a", "--no-is-square", "--painted")[0] == {"out": Path("a"), "kind": "round", "filled": True}


WRONG = [
    ("size", 0), ("size", "3"), ("size", True), ("size", 1.5), ("size", None), ("kind", "oval"), ("filled", 1),
    ("share", 0), ("share", 1.1), ("share", float("nan")), ("share", 10**400), ("share", "a"), ("pens", "many"),
    ("pens", 0), ("pens", 1.5), ("title", ".hidden"), ("title", "a/b"), ("title", ""), ("layers", (1, 4)),
    ("layers", 2), ("out", 3), ("out", None),
]  # fmt: skip


@pytest.mark.parametrize(("name", "value"), WRONG)
def test_one_check_for_all_sources(name, value):
    with refused(option=f"--{name}"):
        merge(Drawing, {"out": Path("a")}, {name: value})
    with refused(option=f"--{name}"):
        read_values(Drawing, {name: value})
    if (name, value) not in (("size", "3"), ("layers", 2)) and name not in ("out", "filled"):
        with pytest.raises(SystemExit):
            parse("--out=a", f"--{name}={value}")


def test_values_of_files_are_plain():
    drawing = Drawing(out=Path("a/b"), title="t")
    assert drawing.as_dict()["out"] == "a/b"
    assert read_values(Drawing, {"out": "a/b", "title": None}) == {"out": Path("a/b"), "title": None}
    with refused(option="--sise") as error:
        read_values(Drawing, {"sise": 3})
    assert "size" in str(error.value)


def test_as_one_types_them():
    values = {"size": 3, "filled": False, "title": None, "out": Path("a b")}
    assert as_arguments(values) == ["--size=3", "--no-filled", "--out=a b"]
    assert parse(*as_arguments(values))[0] == {"size": 3, "filled": False, "out": Path("a b")}


def test_table():
    rows = as_markdown(Drawing).splitlines()
    assert "| `--size` | 3 | Shape: rows |" in rows
    assert "| `--out` | required | Drawing: folder |" in rows
    assert len(rows) == 2 + 9


def test_argument():
    assert argument(int, low=1)("3") == 3
    for text in ("0", "3.5", "many"):
        with pytest.raises(ArgumentTypeError):
            argument(int, low=1)(text)
