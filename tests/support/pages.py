"""What tests check of every page in a browser."""

from __future__ import annotations

import re
from pathlib import Path

from tests.support.browser import Browser

# A scan's name that would do something if it were HTML; file names can hold it.
HOSTILE = """<script>document.title = "hit"<\\script><img src=x onerror="document.title = 'hit'">&amp;'"""
LEAST_CONTRAST = 4.5  # of text, as WCAG 2.2 wants, level AA
COLORS = """
const behind = (element) => {
  const color = getComputedStyle(element).backgroundColor;
  return element.parentElement && color === "rgba(0, 0, 0, 0)" ? behind(element.parentElement) : color;
};
const hasText = (element) => [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
const texts = [...document.body.querySelectorAll("*:not(script, noscript, svg *)")].filter(hasText);
return texts.map((element) => [getComputedStyle(element).color, behind(element), element.textContent.slice(0, 40)]);
"""


def assert_stands_alone(browser: Browser, page: Path) -> None:
    """It asked for nothing but itself and what lies in it, and its policy refuses what is not."""
    asked = [address for address in browser.log_requests() if not address.startswith("data:")]
    assert asked == [page.absolute().as_uri()]
    assert browser.log_errors() == []
    browser.run("fetch('http://127.0.0.1:9/').catch(() => {})")
    browser.run("document.body.append(Object.assign(new Image(), { src: 'http://127.0.0.1:9/x.png' }))")
    browser.wait(lambda: len(browser.log_errors()) > 0)


def assert_readable(browser: Browser, scheme: str) -> None:
    """All text stands out from what is behind it, in the colors that were preferred."""
    colors = browser.run(COLORS)
    assert len(colors) > 5
    for text, behind, words in colors:
        one, other = luminance(text), luminance(behind)
        contrast = (max(one, other) + 0.05) / (min(one, other) + 0.05)
        assert contrast >= LEAST_CONTRAST, (words, text, behind)
        assert (other < one) == (scheme == "dark"), (words, text, behind)


def luminance(css: str) -> float:
    """Source: WCAG 2.2, relative luminance."""
    parts = [int(value) / 255 for value in re.findall(r"\d+", css)[:3]]
    linear = [each / 12.92 if each <= 0.04045 else ((each + 0.055) / 1.055) ** 2.4 for each in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def assert_no_sideways_scrolling(browser: Browser, width: int) -> None:
    assert browser.run("return document.documentElement.scrollWidth") <= width
