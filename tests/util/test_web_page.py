import base64
import hashlib
import re

import pytest
from jinja2 import UndefinedError

from p2ch13.util.web_page import as_data_uri, render

TEMPLATE = (
    '{% extends "web_page.html" %}{% block title %}{{ name }}{% endblock %}'
    '{% block main %}<p title="{{ name }}">{{ name }}</p>{% endblock %}'
)


@pytest.fixture
def template(tmp_path):
    path = tmp_path / "page.html"
    path.write_text(TEMPLATE, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("name", "written"),
    [
        ("<script>alert(1)</script>", "&lt;script&gt;alert(1)&lt;/script&gt;"),
        ('"><img src=x onerror=alert(1)>', "&#34;&gt;&lt;img src=x onerror=alert(1)&gt;"),
        ("{{ 7 * 7 }} & ä", "{{ 7 * 7 }} &amp; ä"),
    ],
)
def test_text_stays_text(template, name, written):
    page = render(template, name=name)
    assert f"<title>{written}</title>" in page
    assert f'<p title="{written}">{written}</p>' in page


def test_the_policy_allows_the_style_sheet_and_images_inside(template):
    page = render(template, name="a")
    (style,) = re.findall("<style>(.*?)</style>", page, re.DOTALL)
    (policy,) = re.findall('http-equiv="Content-Security-Policy" content="(.*?)"', page)
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert [part.strip() for part in policy.replace("&#39;", "'").split(";")] == [
        "default-src 'none'", "img-src data:", f"style-src 'sha256-{digest}'", "base-uri 'none'", "form-action 'none'"
    ]  # fmt: skip


def test_a_missing_value_is_an_error(template):
    with pytest.raises(UndefinedError):
        render(template)


def test_data_uri():
    assert as_data_uri(b"abc", "image/png") == "data:image/png;base64,YWJj"
