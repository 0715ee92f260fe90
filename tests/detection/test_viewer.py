"""The viewer's page: its bytes, and what a browser makes of them."""

import base64
import json
import math
import re
import zlib

import numpy as np
import pytest
from selenium.webdriver.common.keys import Keys

from p2ch13.data.ct import Ct
from p2ch13.detection.colors import MARKED
from p2ch13.detection.findings import Finding
from p2ch13.detection.measure import Axes, Diameter, Measures
from p2ch13.detection.viewer import (
    HIGHEST_HU,
    LOWEST_HU,
    MOST_BYTES,
    STEPS_HU,
    choose_step,
    describe_scan,
    encode_slice,
    predict,
    quantize,
    write_viewer,
)
from tests.support.pages import HOSTILE, assert_no_sideways_scrolling, assert_readable, assert_stands_alone
from tests.support.scan_files import ORIENTATIONS, VX_SIZE_XYZ, write_scan, write_turned

SHAPE_IRC = (12, 40, 60)
FIRST, SECOND = np.s_[4:7, 17:24, 19:26], np.s_[9:10, 8:12, 40:50]  # the findings' voxels
CENTERS_IRC = (5, 20, 22), (9, 9.5, 44.5)
TISSUE_HU = 40


def lung_hu(slice_ndx):
    """Of the slices around the findings, each other."""
    return -900 + 10 * slice_ndx


@pytest.fixture
def hu():
    hu = np.empty(SHAPE_IRC, np.int16)
    hu[:] = lung_hu(np.arange(SHAPE_IRC[0]))[:, None, None]
    hu[FIRST] = hu[SECOND] = TISSUE_HU
    return hu


@pytest.fixture
def write_page(tmp_path):
    """Write a scan's page, with both findings unless others are named; return its path."""

    def write(hu, name="a scan", numbers=(1, 2), has_logits=True):
        ct = Ct(write_scan(tmp_path / "a.mha", hu))
        labels = np.zeros(hu.shape, np.int32)
        findings, measures = [], []
        for number in numbers:
            part, center_irc = (FIRST, SECOND)[number - 1], CENTERS_IRC[number - 1]
            labels[part] = number
            logit = 2.0 - number if has_logits else math.nan
            slices = part[0].start, part[0].stop - 1
            findings.append(Finding("a", number, ct.to_xyz(center_irc), logit, 0.8, 5.0, 65.0, *slices))
            across = Diameter(7.04 - number, ((0, 0), (1, 1)))
            measures.append(Measures(Axes(center_irc[0], across, across), 65, 0, "solid", None, math.nan, False))
        write_viewer(tmp_path / "page.html", name, ct, labels, findings, measures)
        return tmp_path / "page.html"

    return write


# The bytes


def test_prediction_by_hand():
    """The upper left neighbor is 5: the plane 6 + 7 - 5 is cut to 7, 6 + 4 - 5 lies between, 1 + 2 - 5 is cut to 1."""
    values = np.array([[[5, 7], [6, 9]], [[5, 4], [6, 9]], [[5, 2], [1, 9]]], np.int32)
    assert [predict(each).tolist() for each in values] == [[[0, 5], [5, 7]], [[0, 5], [5, 5]], [[0, 5], [5, 1]]]


def test_residuals_by_hand():
    """Folded: 0, -1, 1, -2, ... become 0, 1, 2, 3, ...; 300 is 44 and a high byte of 1."""
    text = encode_slice(np.array([[150, 149]], np.int32))
    assert zlib.decompress(base64.b64decode(text)) == bytes([300 - 256, 1, 1, 0])


@pytest.mark.parametrize("step", STEPS_HU)
def test_rounding_is_half_a_step_at_most(step):
    hu = np.arange(LOWEST_HU, HIGHEST_HU + 1, dtype=np.int16)[np.newaxis]
    back = quantize(hu, step) * step + LOWEST_HU
    assert np.abs(back - hu).max() == step // 2
    beyond = np.array([[-3024, 32767]], np.int16)
    assert (quantize(beyond, step) == quantize(hu, step)[:, [0, -1]]).all()


def test_noise_is_rounded_until_the_page_is_small_enough():
    """Noise with a standard deviation of 64, as of a sharp kernel, takes log2(64 / step) + 2 bits a pixel."""
    assert choose_step(np.full((3, 64, 64), 100, np.int16)) == 1
    noise = np.random.default_rng(0).normal(0, 64, (3, 128, 128)).astype(np.int16)
    step = choose_step(noise)
    sizes = [len(encode_slice(quantize(noise[0], each))) / noise[0].size for each in STEPS_HU]
    assert step == 24
    assert sizes[STEPS_HU.index(step)] < MOST_BYTES < sizes[STEPS_HU.index(step) - 1]
    assert sizes == sorted(sizes, reverse=True)


def test_the_page_stands_alone(hu, write_page):
    page = write_page(hu, HOSTILE).read_text()
    assert re.search("<[^>]+(src|href)=[^#]*>", page.replace('"', "")) is None
    assert 'content="default-src &#39;none&#39;;' in page
    assert json.loads(page.split('id="scan">')[1].split("</script>")[0])["shape"] == list(SHAPE_IRC)
    assert page.count("<script>") == 1
    assert page.count('id="hu-') == SHAPE_IRC[0]
    assert page.count('id="labels-') == 4


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_positions_of_any_stored_order(tmp_path, hu, orientation):
    """The page has the axial order's geometry: col, row and slice are steps from its origin."""
    scan = write_turned(tmp_path / "turned.mha", orientation, write_scan(tmp_path / "a.mha", hu))
    page = describe_scan(Ct(scan), [], [], 1)
    place = np.array(page["steps"]) @ (10, 30, 5) + page["origin"]
    assert place == pytest.approx((-30 + 10 * 0.7, -40 + 30 * 0.7, 200 + 5 * 1.5))
    assert (page["shape"], page["first"]) == (SHAPE_IRC, 6)


# In a browser


@pytest.fixture
def open_page(browser, write_page, hu):
    """Open a page and wait for its first picture."""

    def open_it(voxels=hu, **changes):
        browser.open(write_page(voxels, **changes))
        browser.wait(lambda: shown_slice(browser) is not None)
        return browser

    return open_it


def shown_slice(browser):
    text = browser.find("#picture").get_attribute("data-slice")
    return text and int(text)


def wait_for_slice(browser, ndx):
    browser.wait(lambda: shown_slice(browser), ndx)
    assert f"Slice {ndx} (0 to" in browser.find("#status").text
    assert browser.find("#slice").get_attribute("value") == str(ndx)


def pixel(browser, row, col):
    """Read the picture's color at a place in the slice, which fills the picture's width or height."""
    script = """
    const canvas = document.getElementById("picture");
    const size = Math.min(canvas.width / arguments[3], canvas.height / arguments[2]);
    const [x, y] = [canvas.width / 2 + (arguments[1] - arguments[3] / 2) * size,
                    canvas.height / 2 + (arguments[0] - arguments[2] / 2) * size];
    return [...canvas.getContext("2d").getImageData(Math.round(x), Math.round(y), 1, 1).data].slice(0, 3);
    """
    return tuple(browser.run(script, row, col, *SHAPE_IRC[1:]))


def is_marked(browser, row, col):
    """Tell whether a line's color is there; its edges are blended with what is behind it."""
    return np.abs(np.subtract(pixel(browser, row, col), MARKED.rgb)).max() < 40


def gray(hu, black, white):
    return (round(min(max((hu - black) / (white - black), 0), 1) * 255),) * 3


LUNG, MEDIASTINUM, BONE = (-1350, 150), (-160, 240), (-500, 1300)
IN_FIRST, IN_LUNG, ON_OUTLINE = (20.5, 22.5), (30.5, 10.5), (20.5, 19)


def test_slice_and_mask(open_page):
    browser = open_page()
    assert shown_slice(browser) == 5  # that of the first finding
    assert pixel(browser, *IN_FIRST) == gray(TISSUE_HU, *LUNG)
    assert pixel(browser, *IN_LUNG) == gray(lung_hu(5), *LUNG)
    assert is_marked(browser, *ON_OUTLINE)
    browser.find("#mask").click()
    assert not is_marked(browser, *ON_OUTLINE)
    assert browser.find("#mask").get_attribute("aria-pressed") == "false"
    browser.press("m")
    assert is_marked(browser, *ON_OUTLINE)
    assert browser.log_errors() == []


def test_windows(open_page):
    browser = open_page()
    names = [button.text for button in browser.find_all("#windows button")]
    assert names == ["Lung", "Mediastinum", "Bone"]
    for ndx, window in enumerate((LUNG, MEDIASTINUM, BONE)):
        browser.find_all("#windows button")[ndx].click()
        assert pixel(browser, *IN_FIRST) == gray(TISSUE_HU, *window)
        pressed = [button.get_attribute("aria-pressed") for button in browser.find_all("#windows button")]
        assert pressed == [str(ndx == other).lower() for other in range(3)]
    browser.press("1")
    assert pixel(browser, *IN_FIRST) == gray(TISSUE_HU, *LUNG)
    browser.press("2")
    assert pixel(browser, *IN_FIRST) == gray(TISSUE_HU, *MEDIASTINUM)


def test_the_wheel_scrolls(open_page):
    """Towards the user is down, to the feet; it stops at the last slice."""
    browser = open_page()
    browser.scroll("#picture", 2)
    wait_for_slice(browser, 3)
    assert pixel(browser, *IN_LUNG) == gray(lung_hu(3), *LUNG)
    browser.scroll("#picture", -3)
    wait_for_slice(browser, 6)
    browser.scroll("#picture", 9)
    wait_for_slice(browser, 0)


def test_keys_scroll(open_page):
    browser = open_page()
    for key, ndx in (
        (Keys.ARROW_UP, 6), (Keys.ARROW_RIGHT, 7), (Keys.ARROW_DOWN, 6), (Keys.ARROW_LEFT, 5), (Keys.PAGE_UP, 11),
        (Keys.PAGE_DOWN, 1), (Keys.END, 11), (Keys.ARROW_UP, 11), (Keys.HOME, 0), (Keys.ARROW_DOWN, 0),
    ):  # fmt: skip
        browser.press(key)
        wait_for_slice(browser, ndx)
    browser.tab_to("#slice")
    for key, ndx in ((Keys.ARROW_UP, 1), (Keys.PAGE_UP, 11), (Keys.HOME, 0)):  # its own are not added
        browser.press(key)
        wait_for_slice(browser, ndx)


def test_a_finding_leads_to_its_slice(open_page):
    browser = open_page()
    first, second = browser.find_all("#findings button")
    assert second.text == "2: probability 0.80, 5.0 x 5.0 mm, solid, slice 9"
    second.click()
    wait_for_slice(browser, 9)
    assert is_marked(browser, 9.5, 40)
    assert (first.get_attribute("aria-current"), second.get_attribute("aria-current")) == ("false", "true")
    assert "finding 2" in browser.find("#status").text
    browser.tab_to("#findings li:first-child button")
    browser.press(Keys.ENTER)
    wait_for_slice(browser, 5)
    for key, ndx in (("n", 9), ("n", 5), ("p", 9)):
        browser.press(key)
        wait_for_slice(browser, ndx)


def test_position_and_hu(open_page):
    """The mouse's, or those of a cross that keys move."""
    browser = open_page()
    canvas = browser.find("#picture").size
    size = min(canvas["width"] / SHAPE_IRC[2], canvas["height"] / SHAPE_IRC[1])
    at = [canvas["width"] / 2 + (10.5 - 30) * size, canvas["height"] / 2 + (30.5 - 20) * size]
    browser.point("#picture", *at)
    x, y, z = -30 + 10 * VX_SIZE_XYZ[0], -40 + 30 * VX_SIZE_XYZ[1], 200 + 5 * VX_SIZE_XYZ[2]
    assert (
        browser.find("#place").text == f"x {x:.1f}, y {y:.1f}, z {z:.1f} mm (LPS); row 30, column 10: {lung_hu(5)} HU"
    )
    browser.press(Keys.ARROW_LEFT, holding=Keys.SHIFT)
    assert f"row 20, column 21: {TISSUE_HU} HU" in browser.find("#place").text  # it begins at the finding
    browser.press(*[Keys.ARROW_LEFT] * 3, Keys.ARROW_DOWN, holding=Keys.SHIFT)
    assert f"row 21, column 18: {lung_hu(5)} HU" in browser.find("#place").text
    assert shown_slice(browser) == 5


def test_zoom(open_page):
    """The finding moves to the middle of the picture, where it grows."""
    browser = open_page()
    assert pixel(browser, 17.5, 27) == gray(lung_hu(5), *LUNG)
    browser.press("+", "+", "+")
    assert pixel(browser, 20, 30) == gray(TISSUE_HU, *LUNG)
    assert pixel(browser, 20 - 10, 30) == gray(TISSUE_HU, *LUNG) == pixel(browser, 20 + 10, 30)
    assert pixel(browser, 20 - 14, 30) == gray(lung_hu(5), *LUNG)
    browser.press("0")
    assert pixel(browser, *IN_FIRST) == gray(TISSUE_HU, *LUNG)
    browser.find("#closer").click()
    assert pixel(browser, 20, 30) == gray(TISSUE_HU, *LUNG)
    browser.find("#farther").click()
    assert pixel(browser, 20, 30) == gray(lung_hu(5), *LUNG)


def test_no_request_leaves_the_machine(open_page, tmp_path):
    browser = open_page(name=HOSTILE)
    browser.press(Keys.END, "n", "2", "m", "+")
    browser.scroll("#picture", 2)
    assert_stands_alone(browser, tmp_path / "page.html")


def test_requests_are_seen(browser, tmp_path):
    """Else the test above would see nothing."""
    page = tmp_path / "page.html"
    page.write_text("<img src='http://127.0.0.1:9/x.png'>")
    browser.open(page)
    browser.wait(lambda: "http://127.0.0.1:9/x.png" in browser.log_requests())


def test_a_name_with_html_is_text(open_page):
    browser = open_page(name=HOSTILE)
    assert browser.find("h1").text == HOSTILE
    assert browser.driver.title == HOSTILE
    assert browser.find_all("img") == []
    assert browser.log_errors() == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_light_and_dark(browser, open_page, scheme):
    browser.prefer(scheme)
    open_page().find("summary").click()
    assert_readable(browser, scheme)
    assert pixel(browser, *IN_FIRST) == gray(TISSUE_HU, *LUNG)


@pytest.mark.parametrize("width", [1280, 768, 360])
def test_any_width_fits(browser, open_page, width):
    browser.resize(width, 700)
    open_page(name="1.2.840.113619.2.55.3.604688119.971.1234567890.123456789012345")
    assert_no_sideways_scrolling(browser, width)
    assert browser.find("#picture").size["height"] > 200


def test_all_of_it_has_names_and_is_reached_by_tab(open_page):
    browser = open_page()
    for element in browser.find_all("button, input, canvas, [role=group]"):
        assert element.accessible_name, element.get_attribute("outerHTML")
    for element in ("#picture", "#slice", "#mask", "#findings li:last-child button", "#notes", "summary"):
        browser.tab_to(element)
    browser.press(Keys.ENTER)
    assert browser.find("dl").is_displayed()
    assert "Slice 5" in browser.find("#slice").get_attribute("aria-valuetext")


def test_without_findings(open_page, hu):
    browser = open_page(numbers=())
    assert shown_slice(browser) == 6  # the middle
    assert browser.find("#count").text == "No findings"
    browser.press("n", Keys.ARROW_UP)
    wait_for_slice(browser, 7)


def test_another_programs_mask_has_no_probabilities(open_page):
    browser = open_page(has_logits=False)
    assert browser.find("#findings button").text == "1: 6.0 x 6.0 mm, solid, slices 4 to 6"
    assert "marked in the mask" in browser.find("#notes").text


@pytest.mark.slow
def test_500_slices(open_page):
    noise = np.random.default_rng(0).normal(0, 20, (256, 256)).astype(np.int16)
    hu = noise + lung_hu(np.arange(500) % 50)[:, None, None].astype(np.int16)
    hu[FIRST] = hu[SECOND] = TISSUE_HU
    browser = open_page(hu)
    wait_for_slice(browser, 5)
    browser.press(Keys.END)
    wait_for_slice(browser, 499)
    browser.press(*[Keys.PAGE_DOWN] * 30)
    wait_for_slice(browser, 199)
    assert browser.log_errors() == []
