"""Web pages in one file: templates that turn all text into text, style and script inside, nothing from elsewhere."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

STYLE = Path(__file__).with_name("web_page.css")


def render(template: Path, **values: Any) -> str:
    """Fill a Jinja template, which may extend `web_page.html` of this folder.

    A style sheet and a script of the template's name are added. Whatever a value holds is shown as text, not as HTML.
    The page's content security policy allows its own style sheet, script and images in it; anything else, other scripts
    and requests above all, is refused by the browser.
    """
    folders = [template.parent, STYLE.parent]
    environment = Environment(
        loader=FileSystemLoader(folders),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    style = read_all([STYLE, template.with_suffix(".css")])
    script = read_all([template.with_suffix(".js")])
    policy = {"default-src": "'none'", "img-src": "data:", "style-src": name_source(style)}
    policy |= {"script-src": name_source(script)} if script else {}
    policy |= {"base-uri": "'none'", "form-action": "'none'"}
    values |= {"style": style, "script": script, "policy": "; ".join(map(" ".join, policy.items()))}
    return environment.get_template(template.name).render(values)


def read_all(paths: Iterable[Path]) -> str:
    """Return the content of the files that exist, one after the other."""
    return "".join(path.read_text(encoding="utf-8") for path in paths if path.is_file())


def name_source(text: str) -> str:
    """Return what a content security policy calls a style sheet or script by: its checksum."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def as_data_uri(content: bytes, media_type: str) -> str:
    """Turn a file's content into a URI that stands in a page."""
    return f"data:{media_type};base64,{base64.b64encode(content).decode()}"
