"""README and docs: their pages, the commands in them, and the links between them.

`python -m tests.support.documentation` lists the commands that no test runs, with the reason: that of all such
commands, or what the page says in the line above the block, `<!-- not run: REASON -->`.
"""

from __future__ import annotations

import re
import shlex
from collections import Counter
from dataclasses import dataclass
from itertools import dropwhile
from pathlib import Path

from p2ch13.commands import COMMANDS, PROGRAM
from p2ch13.config import COMMANDS as OPTIONS
from p2ch13.config import LABEL_DEFAULTS, LabelOptions, make_parser
from p2ch13.phantom.__main__ import PhantomOptions
from p2ch13.util.options import Options, add_options, list_options, merge
from tests.support.commands import REPOSITORY

PAGES = sorted(
    path.relative_to(REPOSITORY).as_posix()
    for pattern in ("*.md", "docs/*.md", "data/README.md", "p2ch13/weights/*.md")
    for path in REPOSITORY.glob(pattern)
)
BLOCK = re.compile(
    r"^(?:<!-- not run: (?P<reason>[^\n]*) -->\n)?```(?P<language>\w*)\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL
)
SHELLS = ("sh", "bash", "console")
# Commands that no test runs, on whatever page.
NEVER_RUN = {
    **dict.fromkeys(("pip", "python3", "download", "git", "docker"), "needs the network"),
    "tensorboard": "starts a server",
    "torchrun": "needs several GPUs",
}
PROGRAMS = (PROGRAM, "python", "make", ".venv/bin/python", *NEVER_RUN)
ASSIGNMENT = re.compile(r"[A-Z_]+=\S*")
MODULE_NAMES = {f"{PROGRAM}.{command.module}": name for name, command in COMMANDS.items()}
SCRIPTS = {"precache.py": "precache", "training.py": "train"}


@dataclass(frozen=True)
class Block:
    """A fenced block of a page.

    Attributes: `not_run`, the reason that the page gives why no test runs it, or "".
    """

    page: str
    language: str
    code: str
    not_run: str

    @property
    def commands(self) -> list[Command]:
        """The commands of a shell block, as words without comments and without variables that are set in front."""
        lines = self.code.replace("\\\n", " ").splitlines()
        if not (self.language in SHELLS or (not self.language and lines[0].split(" ")[0] in PROGRAMS)):
            return []
        each = [list(dropwhile(ASSIGNMENT.fullmatch, shlex.split(line, comments=True))) for line in lines]
        return [Command(self.page, tuple(words), self.not_run or find_reason(words)) for words in each if words]


@dataclass(frozen=True)
class Command:
    """A command of a page. Attributes: `not_run`, the reason why no test runs it, or ""."""

    page: str
    words: tuple[str, ...]
    not_run: str

    def __str__(self) -> str:
        return shlex.join(self.words)

    @property
    def own(self) -> tuple[str, list[str]] | None:
        """Name and arguments of a command of the program, however it is started; None for others, and `--version`."""
        if self.words[0] == PROGRAM:
            return None if self.words[1].startswith("-") else (self.words[1], list(self.words[2:]))
        for ndx, word in enumerate(self.words):
            name = SCRIPTS.get(word) or MODULE_NAMES.get(word)
            if name is not None:
                return name, list(self.words[ndx + 1 :])
        return None


def find_reason(words: list[str]) -> str:
    """Return why no test runs a command, "" if one may."""
    return NEVER_RUN.get(words[1] if words[0] == PROGRAM else words[0], "")


def read_page(page: str) -> str:
    return (REPOSITORY / page).read_text(encoding="utf-8")


def find_blocks(page: str) -> list[Block]:
    blocks = BLOCK.finditer(read_page(page))
    return [Block(page, each["language"], each["code"], each["reason"] or "") for each in blocks]


def find_commands(page: str) -> list[Command]:
    return [command for block in find_blocks(page) for command in block.commands]


def parse(name: str, arguments: list[str]) -> None:
    """Read a command's options as it does. Raises: InputError for unknown ones; SystemExit for missing ones."""
    module = COMMANDS[name].module
    options: type[Options] = PhantomOptions if module == "phantom" else OPTIONS[module]
    parser = make_parser(options, name, None)
    more = list_options(LabelOptions) if module in LABEL_DEFAULTS else {}
    if more:
        add_options(parser, LabelOptions)
    arguments = [word.replace("$SLURM_ARRAY_TASK_ID", "1") for word in arguments]
    given = vars(parser.parse_args(arguments))
    merge(LabelOptions, {label: given.pop(label) for label in more if label in given})
    merge(options, given)


def without_code(text: str) -> str:
    return re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)


def find_links(page: str) -> list[str]:
    """Targets of the links and images of a page that are no web addresses."""
    targets = re.findall(r"\]\(([^)\s]+)\)", without_code(read_page(page)))
    return [target for target in targets if "://" not in target]


def find_anchors(page: Path) -> set[str]:
    """Return the anchors that GitHub gives to a page's headings: -1 follows the second one of a name."""
    headings = re.findall(r"^#+ (.*)$", without_code(page.read_text(encoding="utf-8")), re.MULTILINE)
    names = Counter(re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-") for heading in headings)
    return {f"{name}-{ndx}" if ndx else name for name, count in names.items() for ndx in range(count)}


def main() -> None:
    print("No test runs these commands of README and docs:")
    for page in PAGES:
        for command in find_commands(page):
            if command.not_run:
                print(f"  {page}: {command}  ({command.not_run})")


if __name__ == "__main__":
    main()
