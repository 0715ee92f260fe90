"""A web page as a browser reads it, for tests."""

from __future__ import annotations

from html.parser import HTMLParser

VOID = {"meta", "img", "source", "br", "hr", "input", "link", "rect"}
REFERENCES = ("src", "srcset", "href", "xlink:href", "data", "action", "poster", "background", "formaction")


class Page(HTMLParser):
    """The content of a page.

    Attributes: elements: tags with their attributes; text: all that is shown; tables: rows of cells; texts: tag -> the
        text in each such element.
    """

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.text = ""
        self.tables: list[list[list[str]]] = []
        self.texts: dict[str, list[str]] = {}
        self.open_tags: list[tuple[str, int]] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        self.texts.setdefault(tag, []).append("")
        if tag not in VOID:
            self.open_tags.append((tag, len(self.texts[tag]) - 1))
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open_tags.pop()[0] == tag, f"</{tag}> at {self.getpos()}"

    def handle_data(self, data: str) -> None:
        inside = {tag for tag, _ in self.open_tags}
        if inside & {"style", "script", "title"}:
            return
        self.text += data
        for tag, ndx in self.open_tags:
            self.texts[tag][ndx] += data
        if inside & {"td", "th"}:
            self.tables[-1][-1][-1] += data

    def find(self, tag: str) -> list[dict[str, str]]:
        """Return the attributes of each element with this tag."""
        return [attributes for name, attributes in self.elements if name == tag]


def assert_stands_alone(html: str) -> Page:
    """Parse a page that runs nothing, and loads nothing that is not in it."""
    page = Page(html)
    assert page.open_tags == []
    tags = {tag for tag, _ in page.elements}
    assert not tags & {"script", "link", "iframe", "object", "embed", "base", "form"}
    pairs = [pair for _, attributes in page.elements for pair in attributes.items()]
    for name, value in pairs:
        assert not name.startswith("on")
        assert name not in REFERENCES or value.startswith(("data:image/png;base64,", "#")), value[:80]
    assert "url(" not in html and "@import" not in html
    metas = {each.get("http-equiv"): each for each in page.find("meta")}
    assert "refresh" not in metas
    assert "default-src 'none'" in metas["Content-Security-Policy"]["content"]
    return page
