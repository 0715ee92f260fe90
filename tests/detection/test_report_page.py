"""The report of a scan in a browser."""

import pytest
from selenium.webdriver.common.keys import Keys

from p2ch13.predict import main
from tests.support.networks import write_released_network
from tests.support.pages import HOSTILE, assert_no_sideways_scrolling, assert_readable, assert_stands_alone
from tests.support.scan_files import make_chest, write_scan


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """The report of a scan with two nodules, whose name is HTML."""
    folder = tmp_path_factory.mktemp("report")
    hu = make_chest((24, 96, 128))
    hu[8:11, 38:42, 38:43] = 0
    hu[16:18, 40:43, 84:87] = 0
    scan = write_scan(folder / "a.mha", hu, vx_size_xyz=(3.0, 3.0, 3.0)).rename(folder / f"{HOSTILE}.mha")
    weights = write_released_network(folder / "nodules.state")
    assert main([str(scan), "--output", str(folder / "out")], weights) == 0
    return folder / "out" / f"{HOSTILE}_report.html"


@pytest.fixture
def report(browser, page):
    browser.open(page)
    return browser


def test_each_finding_has_its_pictures(report):
    articles = report.find_all("article")
    assert [article.find_element("tag name", "h3").text.partition(":")[0] for article in articles] == [
        "Finding 1", "Finding 2"
    ]  # fmt: skip
    for article in articles:
        assert len(article.find_elements("css selector", "figure")) == 3
    loaded = report.run("return [...document.images].map((image) => image.complete && image.naturalWidth > 0)")
    drawn = report.run("return [...document.querySelectorAll('svg image')].map((image) => image.href.baseVal)")
    assert all(loaded)
    assert len(loaded) + len(drawn) >= 6
    assert all(address.startswith("data:image/") for address in drawn)


def test_no_request_leaves_the_machine(report, page):
    assert_stands_alone(report, page)


def test_a_name_with_html_is_text(report):
    assert HOSTILE in report.find("header").text
    assert HOSTILE in report.driver.title
    assert report.find_all("body script, img[onerror]") == []


def test_usable_by_keyboard(report):
    """The first Tab offers to skip to the content; a finding's link leads to it, and the lines can be turned off."""
    report.press(Keys.TAB)
    assert report.driver.switch_to.active_element.get_attribute("class") == "skip"
    report.press(Keys.ENTER)
    assert report.run("return location.hash") == "#main"
    report.tab_to("table a[href='#finding-2']")
    report.press(Keys.ENTER)
    assert report.run("return location.hash") == "#finding-2"
    top = report.run("return document.getElementById('finding-2').getBoundingClientRect().top")
    assert 0 <= top < report.run("return innerHeight")
    report.find("body").click()
    report.tab_to("#lines")
    report.press(Keys.SPACE)
    assert not report.find("#lines").is_selected()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_light_and_dark(browser, page, scheme):
    browser.prefer(scheme)
    browser.open(page)
    assert_readable(browser, scheme)


@pytest.mark.parametrize("width", [1280, 768, 360])
def test_any_width_fits(browser, page, width):
    browser.resize(width, 800)
    browser.open(page)
    assert_no_sideways_scrolling(browser, width)
