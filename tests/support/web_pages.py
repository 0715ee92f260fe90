"""A web page as a browser reads it, for tests."""

from html.parser import HTMLParser

VOID = {"meta", "img", "source", "br", "hr", "input", "link", "rect"}


class Page(HTMLParser):
    """The content of a page.

    Attributes: elements: tags with their attributes; text: all that is shown; tables: rows of cells; texts: tag -> the
        text in each such element.
    """

    def __init__(self, html):
        super().__init__()
        self.elements, self.text, self.tables, self.texts, self.open_tags = [], "", [], {}, []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        self.texts.setdefault(tag, []).append("")
        if tag not in VOID:
            self.open_tags.append((tag, len(self.texts[tag]) - 1))
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open_tags.pop()[0] == tag, f"</{tag}> at {self.getpos()}"

    def handle_data(self, data):
        inside = {tag for tag, _ in self.open_tags}
        if inside & {"style", "script", "title"}:
            return
        self.text += data
        for tag, ndx in self.open_tags:
            self.texts[tag][ndx] += data
        if inside & {"td", "th"}:
            self.tables[-1][-1][-1] += data

    def find(self, tag):
        """The attributes of each element with this tag."""
        return [attributes for name, attributes in self.elements if name == tag]

    @property
    def references(self):
        """All that a browser would load or go to."""
        names = (
            "src",
            "srcset",
            "href",
            "xlink:href",
            "data",
            "action",
            "poster",
            "background",
            "formaction",
            "content",
        )
        values = [
            value for tag, attributes in self.elements for name, value in attributes.items()
            if name in names and (name != "content" or attributes.get("http-equiv") == "refresh")
        ]  # fmt: skip
        return values


def assert_stands_alone(html):
    """It runs nothing, and loads nothing that is not in it."""
    page = Page(html)
    assert page.open_tags == []
    for value in page.references:
        assert value.startswith(("data:image/png;base64,", "#")), value[:80]
    assert not {tag for tag, _ in page.elements} & {"script", "link", "iframe", "object", "embed", "base", "form"}
    assert not [name for _, attributes in page.elements for name in attributes if name.startswith("on")]
    assert "url(" not in html and "@import" not in html
    policies = [each["content"] for each in page.find("meta") if each.get("http-equiv") == "Content-Security-Policy"]
    assert len(policies) == 1 and "default-src 'none'" in policies[0]
    return page
