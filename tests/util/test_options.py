from argparse import ArgumentParser
from dataclasses import dataclass
from pathlib import Path

import pytest

from p2ch13.util.options import (
    NAME_PART,
    REQUIRED,
    CommandParser,
    Options,
    add_old_names,
    add_options,
    as_arguments,
    as_markdown,
    find_fault,
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
    pens: int | str = option("auto", "pens", low=1, choices=("auto",))
    title: str | None = option(None, "title", pattern=NAME_PART, const="untitled")
    layers: tuple[int, ...] | None = option(None, "layers", choices=range(4), shown="all")
    inks: tuple[Path, ...] = option((), "ink", repeatable=True, shown="none")
    note: str = option("none", "note", pattern=NAME_PART, positional=True)


@pytest.fixture
def parser(monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    parser = CommandParser()
    add_options(parser, Drawing)
    renamed = {"rows": "size", "painted": "filled", "is_square": "kind"}
    add_old_names(parser, Drawing, renamed, {"is_square": {True: "square", False: "round"}})
    return parser


@pytest.mark.parametrize(
    ("arguments", "given"),
    [
        ([], {}),
        (["--pens", "auto", "n"], {"pens": "auto", "note": "n"}),
        (["--size=4", "--filled", "--pens=2", "--share", "1"], {"size": 4, "filled": True, "pens": 2, "share": 1.0}),
        (["--title", "--layers", "0", "3"], {"title": "untitled", "layers": [0, 3]}),
        (["--inks", "b", "n", "--inks=c"], {"inks": [Path("b"), Path("c")], "note": "n"}),
        (["--rows", "9", "--no-painted", "--is-square"], {"size": 9, "filled": False, "kind": "square"}),
        (["--painted", "--no-is-square"], {"filled": True, "kind": "round"}),
    ],
)
def test_only_what_is_given_comes_back(parser, arguments, given):
    assert vars(parser.parse_args(["--out", "a", *arguments])) == {"out": Path("a"), **given}


@dataclass(frozen=True)
class Place(Options):
    """Place."""

    folder: Path | None = option(None, "folder", positional=True)


@pytest.mark.parametrize(("arguments", "given"), [([], {}), (["a"], {"folder": Path("a")})])
def test_a_path_without_a_name_may_be_missing(arguments, given):
    parser = CommandParser()
    add_options(parser, Place)
    assert vars(parser.parse_args(arguments)) == given


def test_later_sources_win():
    drawing = merge(Drawing, {"out": Path("a"), "size": 2, "kind": "square"}, {"size": 4, "layers": [0, 3]})
    assert drawing == Drawing(4, "square", layers=(0, 3), out=Path("a"))
    assert drawing.part(Shape) == Shape(4, "square")


def test_help_is_grouped_and_hides_earlier_names(parser):
    text = parser.format_help().partition("options:")[2]
    assert text.index("Drawing:") < text.index("--out") < text.index("Shape:") < text.index("--size")
    for part in ("rows (default: 3)", "100% of what", "--filled, --no-filled", "layers (default: all)", "auto|N"):
        assert part in text
    assert not any(part in text for part in ("--rows", "painted", "Not in the help"))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[("size", value) for value in (0, "three", True, 1.5, None)],
        *[("share", value) for value in (0, 1.1, float("nan"), 10**400, "a")],
        *[("pens", value) for value in ("many", 0, 1.5)],
        *[("title", value) for value in (".hidden", "a/b", "")],
        *[("kind", "oval"), ("layers", (1, 4)), ("inks", (3,)), ("filled", 1), ("out", 3), ("out", None)],
    ],
)
def test_one_check_for_all_sources(parser, name, value):
    for source in (merge, read_values):
        with refused(option=f"--{name}"):
            source(Drawing, {"out": Path("a"), name: value})
    if name not in ("out", "filled", "inks"):
        with pytest.raises(SystemExit):
            parser.parse_args(["--out=a", f"--{name}={value}"])


@pytest.mark.parametrize(
    ("arguments", "mistake", "meant"),
    [
        (["--sise", "3"], "--sise", "--size"),
        (["--sise=3"], "--sise", "--size"),
        (["--out", "a", "--Size", "3"], "--Size", "--size"),
        (["--tittle"], "--tittle", "--title"),
        (["-size", "3"], "-size", "--size"),
        (["--no-filed"], "--no-filed", "--no-filled"),
        (["--ot", "a"], "--ot", "--out"),  # one that must be given
        (["--row_s", "3"], "--row_s", ""),  # an earlier name is no answer
        (["--xyzzy"], "--xyzzy", ""),
        (["--out", "a", "--kind", "Round"], "--kind", "round"),
        (["--out", "a", "--kind", "sqare"], "--kind", "square"),
        (["--out", "a", "--kind", "oval"], "--kind", ""),
    ],
)
def test_a_mistyped_option_is_answered_in_one_line(parser, capsys, arguments, mistake, meant):
    with pytest.raises(SystemExit) as end:
        parser.parse_args(arguments)
    assert end.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.removeprefix("error: ").removeprefix("argument ").startswith(f"{mistake}: ")
    assert ("did you mean" in line) == bool(meant)
    assert line.endswith(f"did you mean {meant}?") or not meant


@pytest.mark.parametrize(
    ("arguments", "part"),
    [([], "--out"), (["--out"], "--out"), (["--out", "a", "b", "c"], "c"), (["--out=a", "--t=1", "--s"], "--t")],
)
def test_other_mistakes_take_one_line_too(parser, capsys, arguments, part):
    with pytest.raises(SystemExit):
        parser.parse_args(arguments)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert part in line


def test_the_beginning_of_an_option_is_not_enough(parser, capsys):
    """It would change its meaning with each further option."""
    with pytest.raises(SystemExit):
        parser.parse_args(["--ou", "a", "--filled"])
    assert capsys.readouterr().err == "error: --ou: there is no such option; did you mean --out?\n"


def test_a_text_like_an_option_stands_behind_two_dashes(parser):
    parsed = parser.parse_args(["--out", "a", "--filled", "--", "--sise"])
    assert vars(parsed) == {"out": Path("a"), "filled": True, "note": "--sise"}


def test_values_of_files_are_plain():
    drawing = Drawing(out=Path("a/b"), title="t", layers=(0, 3), inks=(Path("c"), Path("d")))
    values = drawing.as_dict()
    assert (values["out"], values["layers"], values["inks"]) == ("a/b", [0, 3], ["c", "d"])
    assert merge(Drawing, read_values(Drawing, values)) == drawing
    assert merge(Drawing, read_values(Drawing, {**values, "layers": None})).layers is None
    for inks in ("c", [3], [["c"]]):
        with refused(option="--inks"):
            read_values(Drawing, {"inks": inks})
    with refused(option="--sise") as error:
        read_values(Drawing, {"sise": 3})
    assert "did you mean size?" in str(error.value)


def test_as_one_types_them(parser):
    values = {"size": 3, "filled": False, "title": None, "out": Path("a b")}
    assert as_arguments(values) == ["--size=3", "--no-filled", "--out=a b"]
    typed = as_arguments({"inks": (Path("c"), Path("d"))})
    assert typed == ["--inks=c", "--inks=d"]
    assert vars(parser.parse_args(["--out=a", *typed]))["inks"] == [Path("c"), Path("d")]


@dataclass(frozen=True)
class Print(Options):
    """Print."""

    sources: tuple[Path, ...] = option(REQUIRED, "file", repeatable=True)


def test_a_repeatable_option_that_must_be_given(capsys):
    parser = ArgumentParser()
    add_options(parser, Print)
    with pytest.raises(SystemExit):
        parser.parse_args([])
    assert "--sources" in capsys.readouterr().err
    assert merge(Print, vars(parser.parse_args(["--sources=a"]))) == Print(sources=(Path("a"),))
    assert "file; may be repeated" in parser.format_help()


def test_table():
    table = as_markdown(Drawing)
    assert table.index("| Drawing |") < table.index("| `--out` | required | folder |") < table.index("| Shape |")
    assert "| `--kind` | round | 100% of what is drawn (round, square) |" in table.splitlines()
    assert "| `--inks` | none | ink; may be repeated |" in table.splitlines()
    assert "| `--size` | none | rows |" in as_markdown(Shape, "none")


def test_a_word_among_numbers_is_named_with_them():
    assert find_fault("sensitve", (float, str), {"choices": ("sensitive",)}) == (
        "invalid choice: 'sensitve' (choose from a number or sensitive); did you mean sensitive?"
    )
    assert find_fault(0.5, (float, str), {"choices": ("sensitive",)}) is None
