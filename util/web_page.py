"""Web pages in one file: templates that turn all text into text, a style sheet inside, nothing from elsewhere."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

STYLE = Path(__file__).with_name("web_page.css")


def render(template: Path, **values: Any) -> str:
    """Fill a Jinja template, which may extend `web_page.html` of this folder; a style sheet of its name is added.

    Whatever a value holds is shown as text, not as HTML. The page's content security policy allows its own style sheet
    and images in it; anything else, scripts and requests above all, is refused by the browser.
    """
    folders = [template.parent, STYLE.parent]
    environment = Environment(
        loader=FileSystemLoader(folders),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    styles = [STYLE, *filter(Path.is_file, [template.with_suffix(".css")])]
    style = "".join(path.read_text(encoding="utf-8") for path in styles)
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policy = f"default-src 'none'; img-src data:; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    return environment.get_template(template.name).render(style=style, policy=policy, **values)


def as_data_uri(content: bytes, media_type: str) -> str:
    """Turn a file's content into a URI that stands in a page."""
    return f"data:{media_type};base64,{base64.b64encode(content).decode()}"
