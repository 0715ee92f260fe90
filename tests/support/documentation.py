"""README and docs: their pages, the commands in them, and the links between them.

`python -m tests.support.documentation` lists the commands that no test runs, with the reason: that of all such commands, or
what the page says in the line above the block, `<!-- not run: REASON -->`.
"""

from __future__ import annotations

import re
import shlex
from argparse import ArgumentParser
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from p2ch13.commands import COMMANDS, PROGRAM
from p2ch13.config import COMMANDS as OPTIONS
from p2ch13.config import LABEL_DEFAULTS, LabelOptions, make_parser
from p2ch13.phantom.__main__ import PhantomOptions
from p2ch13.util.options import add_options, list_options, merge
from tests.support.commands import REPOSITORY

PAGES = sorted(
    path.relative_to(REPOSITORY).as_posix()
    for pattern in ("*.md", "docs/*.md", "data/README.md", "p2ch13/weights/*.md")
    for path in REPOSITORY.glob(pattern)
)
BLOCK = re.compile(
    r"^(?:<!-- not run: (?P<reason>[^\n]*) -->\n)?(?P<indent> *)```(?P<language>\w*)\n(?P<code>.*?)^ *```$",
    re.MULTILINE | re.DOTALL,
)
SHELL_WORDS = (
    PROGRAM,
    "python",
    "python3",
    "make",
    "torchrun",
    "pip",
    "git",
    "docker",
    "tensorboard",
    ".venv/bin/python",
)
# Commands that no test runs, on whatever page.
NEVER_RUN = {
    **dict.fromkeys(("pip", "python3", "download", "git", "docker"), "needs the network"),
    "tensorboard": "starts a server",
    "torchrun": "needs several GPUs",
}
ASSIGNMENT = re.compile(r"[A-Z_]+=\S*")
MODULE_NAMES = {command.module: name for name, command in COMMANDS.items()}
SCRIPTS = {"precache.py": "precache", "training.py": "train"}


@dataclass(frozen=True)
class Block:
    """A fenced block of a page.

    Attributes: `not_run`, the reason why no test runs it, "" if one does.
    """

    page: str
    language: str
    code: str
    not_run: str

    @property
    def is_shell(self) -> bool:
        first = self.code.lstrip().split(maxsplit=1)[:1]
        known = bool(first) and (first[0] in SHELL_WORDS or ASSIGNMENT.fullmatch(first[0]) is not None)
        return self.language in ("sh", "bash", "console") or (not self.language and known)

    @property
    def commands(self) -> list[Command]:
        """The commands of a shell block, each as words, without comments and assignments of variables in front."""
        lines = self.code.replace("\\\n", " ").splitlines() if self.is_shell else []
        each = [shlex.split(line, comments=True) for line in lines]
        without = [words[sum(1 for _ in assignments(words)) :] for words in each]
        return [Command(self.page, tuple(words), self.not_run or find_reason(words)) for words in without if words]


@dataclass(frozen=True)
class Command:
    page: str
    words: tuple[str, ...]
    not_run: str

    def __str__(self) -> str:
        return shlex.join(self.words)

    @property
    def own(self) -> tuple[str, list[str]] | None:
        """Name and arguments of a command of the program, however it is started; None for another program's."""
        words = list(self.words)
        for ndx, word in enumerate(words):
            if ndx == 0 and word == PROGRAM and len(words) > 1 and not words[1].startswith("-"):
                return words[1], words[2:]
            module = words[ndx + 1].removeprefix(f"{PROGRAM}.") if word == "-m" and ndx + 1 < len(words) else ""
            if module in MODULE_NAMES:
                return MODULE_NAMES[module], words[ndx + 2 :]
            if word in SCRIPTS:
                return SCRIPTS[word], words[ndx + 1 :]
        return None


def find_reason(words: list[str]) -> str:
    """Say why no test runs a command, "" if one may."""
    return next((NEVER_RUN[word] for word in words[: 2 if words[0] == PROGRAM else 1] if word in NEVER_RUN), "")


def assignments(words: list[str]) -> Iterator[str]:
    for word in words:
        if ASSIGNMENT.fullmatch(word) is None:
            return
        yield word


def read_page(page: str) -> str:
    return (REPOSITORY / page).read_text(encoding="utf-8")


def find_blocks(page: str) -> list[Block]:
    return [
        Block(
            page,
            each["language"],
            re.sub(rf"^{each['indent']}", "", each["code"], flags=re.MULTILINE),
            each["reason"] or "",
        )
        for each in BLOCK.finditer(read_page(page))
    ]


def find_commands(page: str) -> list[Command]:
    return [command for block in find_blocks(page) for command in block.commands]


def parse(name: str, arguments: list[str]) -> None:
    """Read a command's options as it does. Raises: InputError for unknown ones; SystemExit for missing ones."""
    module = COMMANDS[name].module
    options = PhantomOptions if module == "phantom" else OPTIONS[module]
    parser: ArgumentParser = make_parser(options, name, None)
    if module in LABEL_DEFAULTS:
        add_options(parser, LabelOptions)
    given = vars(parser.parse_args(arguments))
    labels = {
        label: given.pop(label) for label in list_options(LabelOptions) if label in given and module in LABEL_DEFAULTS
    }
    merge(LabelOptions, labels)
    merge(options, given)


def without_code(text: str) -> str:
    return re.sub(r"^ *```.*?^ *```$", "", text, flags=re.MULTILINE | re.DOTALL)


def find_links(page: str) -> list[str]:
    """Targets of the links and images of a page that are no web addresses."""
    targets = re.findall(r"\]\(([^)\s]+)\)", without_code(read_page(page)))
    return [target for target in targets if "://" not in target]


def find_anchors(path: Path) -> set[str]:
    """Anchors that GitHub gives to a page's headings."""
    anchors: dict[str, int] = {}
    for heading in re.findall(r"^#+ (.*)$", without_code(path.read_text(encoding="utf-8")), re.MULTILINE):
        text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        slug = re.sub(r"[^\w\- ]", "", text.strip().lower()).replace(" ", "-")
        anchors[slug] = anchors.get(slug, -1) + 1
    return {f"{slug}-{ndx}" if ndx else slug for slug, count in anchors.items() for ndx in range(count + 1)}


def main() -> None:
    print("No test runs these commands of README and docs:")
    for page in PAGES:
        for command in find_commands(page):
            if command.not_run:
                print(f"  {page}: {command}  ({command.not_run})")


if __name__ == "__main__":
    main()
