"""Options declared once, as fields of frozen dataclasses: parser, checks and documentation come from the fields.

argparse checks command lines alone; here a JSON file or a checkpoint passes the same checks.
"""

from __future__ import annotations

import difflib
import functools
import math
import operator
import re
import sys
from argparse import SUPPRESS, ArgumentParser, ArgumentTypeError, BooleanOptionalAction
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import MISSING, dataclass, field, fields
from inspect import get_annotations
from itertools import takewhile
from pathlib import Path
from types import MappingProxyType, NoneType, UnionType
from typing import Any, NoReturn, TypeVar, cast, get_args, get_origin, get_type_hints

from p2ch13.util.errors import EXIT_USER_MISTAKE, InputError

REQUIRED = MISSING  # default of an option that must be given
NAME_PART = (r"(?!\.)[^/\\]+", "cannot be part of a file name: no slash, no leading dot")
TYPE_NAMES = {bool: "true or false", int: "a whole number", float: "a number", str: "text", Path: "a path"}
METAVARS = {int: "N", float: "X", Path: "PATH"}
LIMITS: dict[str, tuple[Callable[[Any, Any], bool], str]] = {
    "low": (operator.lt, "less than"),
    "above": (operator.le, "not more than"),
    "high": (operator.gt, "more than"),
    "below": (operator.ge, "not less than"),
}

Group = TypeVar("Group", bound="Options")


def option(default: Any, text: str, **spec: Any) -> Any:
    """Declare an option.

    Args:
        default: a value, a function that returns it, or `REQUIRED`.
        text: help, without the default.
        spec: any of `low`, `high` (inclusive limits), `above`, `below` (exclusive ones), `choices` (of an option that
            takes a number or a word, the words), `pattern` (a regular expression and the complaint about what does not
            match), `metavar`, `shown` (default in the help), `const` (value of the name alone; for a switch: there is
            no `--no-...`), `positional`, `repeatable` (of several values, each follows the option's name; otherwise one
            name stands before all), `exclusive` (of the others in its group with this mark), `on_resume` (a resumed
            run may change it).
    """
    where: dict[str, Any] = {"default_factory" if callable(default) else "default": default}
    return field(**where, kw_only=default is REQUIRED, metadata={"text": text, **spec})


class Options:
    """Base of frozen dataclasses of options; raises InputError for a value that is not allowed."""

    def __post_init__(self) -> None:
        for each in list_options(type(self)).values():
            each.check(getattr(self, each.name))

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for JSON and checkpoints: paths as text, several values as a list."""
        return {name: as_plain(getattr(self, name)) for name in list_options(type(self))}

    def part(self, group: type[Group]) -> Group:
        """Return the options of one of the classes that these inherit."""
        return group(**{name: getattr(self, name) for name in list_options(group)})


@dataclass(frozen=True)
class Option:
    """A field that `option` declared.

    Attributes: `title`, of the class that declares it; `kinds`, types of a value; `is_list`, whether there are several;
        `is_optional`, whether it may be None.
    """

    name: str
    title: str
    default: Any
    spec: Mapping[str, Any]
    kinds: tuple[type, ...]
    is_list: bool
    is_optional: bool

    @property
    def flag(self) -> str:
        return self.name if self.spec.get("positional") else as_flag(self.name)

    @property
    def shown_default(self) -> str:
        """The default in the help; empty for none."""
        default = "" if self.default in (None, REQUIRED) else str(self.default)
        return str(self.spec.get("shown", {"True": "yes", "False": "no"}.get(default, default)))

    @property
    def text(self) -> str:
        """What the option is for."""
        return f"{self.spec['text']}; may be repeated" if self.spec.get("repeatable") else str(self.spec["text"])

    def read(self, value: Any) -> Any:
        """Return a value of a JSON file or checkpoint as the option's: text as a path, a list as a tuple."""
        if isinstance(value, list) and self.is_list:
            return tuple(map(self.read, value))
        return Path(value) if self.kinds == (Path,) and isinstance(value, str) else value

    def check(self, value: Any) -> None:
        """Raises: InputError, naming the option, for a value of another type, outside of its limits or not allowed."""
        if value is None and self.is_optional:
            return
        values = value if self.is_list else (value,)
        for each in values if isinstance(values, tuple) else [(value,)]:  # a tuple is of no kind
            if fault := find_fault(each, self.kinds, self.spec):
                raise InputError(fault, option=self.flag)

    def arguments(self, shown_default: str | None = None) -> dict[str, Any]:
        """Return the keyword arguments of `add_argument`."""
        spec, is_required = self.spec, self.default is REQUIRED
        shown = self.shown_default if shown_default is None else shown_default
        text = f"{self.text} (default: {shown})" if shown else self.text
        arguments: dict[str, Any] = {"default": SUPPRESS, "help": text.replace("%", "%%")}
        if self.kinds == (bool,):
            return {**arguments, "action": "store_true" if "const" in spec else BooleanOptionalAction}
        metavar = METAVARS.get(self.kinds[0])
        if "choices" in spec:
            words = map(str, spec["choices"])
            metavar = f"{{{','.join(words)}}}" if len(self.kinds) == 1 else "|".join([*words, str(metavar)])
        arguments |= {"type": argument(*self.kinds, **spec), "metavar": spec.get("metavar", metavar)}
        if spec.get("repeatable"):
            arguments |= {"action": "append", "required": is_required}
        elif self.is_list:
            arguments |= {"nargs": "+"} if spec.get("positional") else {"nargs": "*", "action": "extend"}
        elif "const" in spec or (spec.get("positional") and not is_required):
            arguments |= {"nargs": "?", "const": spec.get("const")}
        elif not spec.get("positional"):
            arguments["required"] = is_required
        return arguments


def list_options(options: type[Options]) -> Mapping[str, Option]:
    """Return a class's options by name."""
    return _list_once(cast("Any", options))  # mypy takes no class for hashable


@functools.cache
def _list_once(options: Any) -> Mapping[str, Option]:
    hints = get_type_hints(options)
    listed: dict[str, Option] = {}
    titles = {name: title_of(part) for part in reversed(options.__mro__) for name in get_annotations(part)}
    for each in fields(options):
        if "text" in each.metadata:
            parts = get_args(hints[each.name]) if isinstance(hints[each.name], UnionType) else (hints[each.name],)
            kinds = tuple(part for part in parts if part is not NoneType)
            is_list = get_origin(kinds[0]) is tuple
            kinds = get_args(kinds[0])[:1] if is_list else kinds
            default = each.default_factory if each.default is MISSING else each.default
            listed[each.name] = Option(
                each.name, titles[each.name], default, each.metadata, kinds, is_list, NoneType in parts
            )
    return MappingProxyType(listed)


def title_of(part: type) -> str:
    """Return the first line of a class's docstring."""
    return (part.__doc__ or "").partition("\n")[0].rstrip(".")


def group_options(options: type[Options]) -> dict[str, list[Option]]:
    """Return a class's options by title, its own first."""
    groups: dict[str, list[Option]] = {title_of(part): [] for part in options.__mro__}
    for each in list_options(options).values():
        groups[each.title].append(each)
    return {title: own for title, own in groups.items() if own}


def as_plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [as_plain(each) for each in value]
    return str(value) if isinstance(value, Path) else value


def as_flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def merge(options: type[Group], *sources: Mapping[str, Any]) -> Group:
    """Make options of several sources; later ones win. Raises: InputError for a value that is not allowed."""
    values = {name: value for source in sources for name, value in source.items()}
    return options(**{name: tuple(value) if isinstance(value, list) else value for name, value in values.items()})


def read_values(options: type[Options], values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of a JSON file or checkpoint as those of options, see `Option.read`.

    Raises: InputError, naming the option, for an unknown name or a value that is not allowed.
    """
    listed, read = list_options(options), {}
    for name, value in values.items():
        if name not in listed:
            message = f"there is no such option; {suggest(name, listed) or 'remove it'}"
            raise InputError(message, option=as_flag(name))
        read[name] = listed[name].read(value)
        listed[name].check(read[name])
    return read


def find_fault(value: Any, kinds: tuple[type, ...], spec: Mapping[str, Any]) -> str | None:
    """Say what is wrong with a value; None if nothing is."""
    is_bool = isinstance(value, bool)
    if is_bool != (kinds == (bool,)) or not isinstance(value, (*kinds, int) if float in kinds else kinds):
        return f"{value!r} is not {' or '.join(TYPE_NAMES[kind] for kind in kinds)}"
    if "choices" in spec and value not in spec["choices"] and (isinstance(value, str) or len(kinds) == 1):
        choices = [str(choice) for choice in spec["choices"]]
        question = suggest(str(value), choices)
        numbers = [TYPE_NAMES[kind] for kind in kinds if kind in (int, float)]
        named = " or ".join([*numbers, ", ".join(choices)])
        return f"invalid choice: {value!r} (choose from {named}){question and f'; {question}'}"
    if "pattern" in spec and not re.fullmatch(spec["pattern"][0], str(value)):
        return f"{value!r} {spec['pattern'][1]}"
    if isinstance(value, float) and not math.isfinite(value):
        return f"{value} is not a number"
    for name, (is_outside, words) in LIMITS.items():
        if name in spec and not isinstance(value, str) and is_outside(value, spec[name]):
            return f"{value} is {words} {spec[name]}"
    return None


def argument(*kinds: type, **spec: Any) -> Callable[[str], Any]:
    """Return the `type` of an argparse argument. Args: kinds, tried in turn; spec: see `option`."""

    def read(text: str) -> Any:
        if text is SUPPRESS:  # argparse reads the default of a positional that is not given, too
            return text
        value: Any = text
        for kind in kinds:
            with suppress(ValueError):
                value = kind(text)
                break
        if fault := find_fault(value, kinds, spec):
            raise ArgumentTypeError(fault)
        return value

    return read


positive_int, non_negative_int = argument(int, low=1), argument(int, low=0)


class CommandParser(ArgumentParser):
    """A parser that reports a mistake in one line, where argparse puts all options above it.

    It names the option that a mistyped one is most like, which argparse does for none, and for subcommands only from
    Python 3.14 on; and it does so before it asks for required ones, one of which may be the mistyped one.
    """

    def parse_known_args(self, args=None, namespace=None):  # type: ignore[no-untyped-def]
        arguments = list(sys.argv[1:] if args is None else args)
        for argument in takewhile(lambda each: each != "--", arguments):
            if re.match("--?[A-Za-z]", argument):
                self._check_option(argument.partition("=")[0])
        return super().parse_known_args(arguments, namespace)

    def _check_option(self, flag: str) -> None:
        """Exit unless an option is called so; one that lacks its last letters is a mistyped one, too."""
        flags = {name: action for action in self._actions for name in action.option_strings}
        if flag not in flags:
            shown = [name for name, action in flags.items() if action.help != SUPPRESS]
            self.error(f"{flag}: there is no such option; {suggest(flag, shown) or '--help lists all'}")

    def error(self, message: str) -> NoReturn:
        if message.startswith("the following arguments are required"):
            message += "; --help says what they are"
        self.exit(EXIT_USER_MISTAKE, f"error: {' '.join(message.split())}\n")


def suggest(word: str, words: Iterable[str]) -> str:
    """Ask for the word that was probably meant; empty if none is similar."""
    plain = {each.casefold().replace("_", "-").lstrip("-"): each for each in words}
    similar = difflib.get_close_matches(word.casefold().replace("_", "-").lstrip("-"), plain, 1)
    return f"did you mean {plain[similar[0]]}?" if similar else ""


def add_options(parser: ArgumentParser, options: type[Options], default: str | None = None) -> None:
    """Add options to a parser, in a group for each title; those that are not given are not in its result.

    Args: default: shown in place of each default.
    """
    for title, own in group_options(options).items():
        group = parser.add_argument_group(title)
        is_exclusive = any(each.spec.get("exclusive") for each in own)
        exclusive = group.add_mutually_exclusive_group() if is_exclusive else group
        for each in own:
            (exclusive if each.spec.get("exclusive") else group).add_argument(each.flag, **each.arguments(default))


def add_old_names(
    parser: ArgumentParser,
    options: type[Options],
    renamed: Mapping[str, str],
    values: Mapping[str, Mapping[bool, Any]],
) -> None:
    """Have a parser read earlier names of options, hidden from its help.

    Args: renamed: earlier name -> name; values: earlier name of a switch -> its values -> those of today's option.
    """
    hidden: dict[str, Any] = {"default": SUPPRESS, "help": SUPPRESS}
    for old, name in renamed.items():
        each = list_options(options).get(name)
        if each is not None and (old in values or each.kinds == (bool,)):
            for prefix, value in (("", True), ("no_", False)):
                constant = values.get(old, {}).get(value, value)
                parser.add_argument(as_flag(prefix + old), dest=name, action="store_const", const=constant, **hidden)
        elif each is not None:
            parser.add_argument(as_flag(old), dest=name, **each.arguments() | hidden)


def as_arguments(values: Mapping[str, Any]) -> list[str]:
    """Return options as one types them, without those that are None; a repeatable one for each of its values."""
    switches = {True: "", False: "no_"}
    return [
        as_flag(switches[each] + name) if isinstance(each, bool) else f"{as_flag(name)}={each}"
        for name, value in values.items()
        for each in (value if isinstance(value, tuple | list) else (value,))
        if each is not None
    ]


def as_markdown(options: type[Options], default: str | None = None) -> str:
    """Return a table of a class's options. Args: default: shown in place of each default."""
    rows = []
    for title, own in group_options(options).items():
        rows += ["", f"| {title} | default | |", "| --- | --- | --- |"]
        for each in own:
            choices = f" ({', '.join(map(str, each.spec['choices']))})" if "choices" in each.spec else ""
            shown = "required" if each.default is REQUIRED else default or each.shown_default
            rows.append(f"| `{each.flag}` | {shown} | {each.text}{choices} |".replace("<", "\\<"))
    return "\n".join(rows)
