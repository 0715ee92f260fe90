"""How a command ends: for people in lines, the result first, then where things are; for programs as one JSON object."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from p2ch13.util.errors import EXIT_DONE
from p2ch13.util.files import as_text
from p2ch13.util.json_values import only_finite
from p2ch13.util.options import Options, option


@dataclass(frozen=True)
class OutcomeOptions(Options):
    """Output."""

    json: bool = option(
        False,
        "print nothing but the result, as one JSON object, on standard output; log lines go to standard error",
        const=True,
    )


@dataclass(frozen=True)
class Outcome:
    """What a command ends with.

    Attributes:
        lines: for people; values: the same for programs, whose keys docs/output.md describes; status: of the process.
    """

    lines: Sequence[str]
    values: Mapping[str, Any]
    status: int = EXIT_DONE

    def finish(self, as_json: bool = False) -> int:
        """Print it. Returns: the exit status."""
        if as_json:
            values = only_finite({"status": self.status, **self.values})
            print(json.dumps(values, allow_nan=False, default=as_text), flush=True)
        else:
            print("\n".join(self.lines), flush=True)
        return self.status
