"""Files of results that are kept as they are done: JSON of a version."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from p2ch13.util.errors import InputError, errors_naming

FORMAT_VERSION = 1


def read_kept(path: Path, key: str, kind: type) -> Any:
    """Read what a file keeps; an empty one of this kind without a file. Raises: InputError if it is no such file."""
    if not path.exists():
        return kind()
    with errors_naming(path):
        text = path.read_text(encoding="utf-8", errors="replace")
    try:
        values = json.loads(text)
        if values["format_version"] != FORMAT_VERSION or not isinstance(values[key], kind):
            raise ValueError("another version")
        return values[key]
    except (ValueError, KeyError, TypeError):
        raise InputError(f"no file of {key}; delete it, or choose another", path=path, option="--output") from None
