"""A headless browser for tests of pages: Debian's Chromium with its driver, which fit each other, by Selenium."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from selenium import webdriver
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.actions.wheel_input import ScrollOrigin
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import WebDriverWait

WIDTH, HEIGHT = 1280, 800
NOTCH = 100  # pixels that a wheel's notch scrolls
PROGRAMS = ("chromium", "chromedriver")
OPTIONS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars")
PATIENCE_S = 60  # on a busy machine


class Browser:
    """What tests do with a page, as a person would."""

    def __init__(self, driver: webdriver.Chrome) -> None:
        """Begin with an empty page of the usual size, in light colors."""
        self.driver = driver
        driver.get("about:blank")
        self.log_errors()
        self.resize(WIDTH, HEIGHT)
        self.prefer("light")

    def open(self, path: Path) -> None:
        self.log_requests()  # those of the page before this one are forgotten
        self.driver.get(path.absolute().as_uri())

    def resize(self, width: int, height: int) -> None:
        """Set the size of the page in pixels."""
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)

    def prefer(self, scheme: str) -> None:
        """Prefer `light` or `dark` colors."""
        feature = {"name": "prefers-color-scheme", "value": scheme}
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})

    def find(self, selector: str) -> WebElement:
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def find_all(self, selector: str) -> list[WebElement]:
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def run(self, script: str, *arguments: Any) -> Any:
        """Run JavaScript and return its value."""
        return self.driver.execute_script(script, *arguments)

    def wait(self, condition: Callable[[], Any], wanted: Any = True) -> None:
        """Wait until a function returns what is wanted; fail with what it returns instead."""
        waiting = WebDriverWait(self.driver, PATIENCE_S, poll_frequency=0.02)
        waiting.until(lambda _: condition() == wanted, f"{wanted!r} is wanted")

    def press(self, *keys: str, holding: str | None = None) -> None:
        """Press keys one after the other, whatever has the focus."""
        actions = ActionChains(self.driver, duration=0)
        if holding:
            actions.key_down(holding)
        for key in keys:
            actions.send_keys(key)
        if holding:
            actions.key_up(holding)
        actions.perform()

    def tab_to(self, selector: str) -> None:
        """Press Tab until an element has the focus. Fails if it gets none."""
        wanted = self.find(selector)
        for _ in range(100):
            if self.driver.switch_to.active_element == wanted:
                return
            self.press(Keys.TAB)
        pytest.fail(f"{selector} cannot be reached by Tab")

    def scroll(self, selector: str, notches: int) -> None:
        """Turn the wheel over an element, towards the user if positive."""
        origin = ScrollOrigin.from_element(self.find(selector))
        for _ in range(abs(notches)):
            step = NOTCH if notches > 0 else -NOTCH
            ActionChains(self.driver, duration=0).scroll_from_origin(origin, 0, step).perform()

    def point(self, selector: str, x: float, y: float) -> None:
        """Move the mouse to pixels from an element's upper left corner."""
        element = self.find(selector)
        size = element.size
        place = round(x - size["width"] / 2), round(y - size["height"] / 2)
        ActionChains(self.driver, duration=0).move_to_element_with_offset(element, *place).perform()

    def log_requests(self) -> list[str]:
        """Return the addresses that were asked for since the last call, the page's own first."""
        messages = (json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance"))
        sent = [message["params"] for message in messages if message["method"] == "Network.requestWillBeSent"]
        return [each["request"]["url"] for each in sent]

    def log_errors(self) -> list[str]:
        """Return what the page's scripts, and its policy, have complained about since the last call."""
        return [entry["message"] for entry in self.driver.get_log("browser") if entry["level"] == "SEVERE"]


@contextmanager
def running_browser() -> Iterator[webdriver.Chrome]:
    """Start the browser and end it. Without it the test is skipped, or fails where all tests have to run."""
    missing = [name for name in PROGRAMS if shutil.which(name) is None]
    if missing:
        report = pytest.fail if os.environ.get("CI") == "true" else pytest.skip
        report(f"{missing[0]} is not installed; apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = str(shutil.which("chromium"))
    options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
    for option in OPTIONS:
        options.add_argument(option)
    driver = webdriver.Chrome(options, webdriver.ChromeService(str(shutil.which("chromedriver"))))
    try:
        yield driver
    finally:
        driver.quit()
