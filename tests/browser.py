"""A headless Chromium, for tests and for pictures of pages."""

from __future__ import annotations

import base64
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from selenium.webdriver import Chrome, ChromeOptions
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.support.ui import WebDriverWait

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")


def missing() -> str | None:
    """What is not there, and how to get it; ``None``: all is there."""
    browser, driver = _found()
    if browser is None or driver is None:
        what = "chromium" if browser is None else "chromedriver"
        return f"no {what} on the PATH (on Debian: apt-get install chromium chromium-driver)"
    return None


@contextmanager
def chromium() -> Iterator[Chrome]:
    """A browser without a network and without a window."""
    browser, driver = _found()
    options = ChromeOptions()
    options.binary_location = str(browser)
    for flag in ("--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--disable-dev-shm-usage"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    chrome = Chrome(options=options, service=Service(driver))
    try:
        chrome.execute_cdp_cmd("Network.enable", {})
        chrome.execute_cdp_cmd(
            "Network.emulateNetworkConditions",
            {"offline": True, "latency": 0, "downloadThroughput": -1, "uploadThroughput": -1},
        )
        yield chrome
    finally:
        chrome.quit()


def opened(chrome: Chrome, page: Path, width: int = 1200, scheme: str = "light") -> None:
    """Show a report page, ``width`` pixels wide, and wait until it is drawn; narrow ones as on a phone."""
    screen = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
    media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    chrome.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
    chrome.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
    chrome.get(page.as_uri())
    WebDriverWait(chrome, 20).until(lambda c: c.execute_script("return document.documentElement.dataset.ready"))


def screenshot(chrome: Chrome, height: int, scale: float = 1.0) -> bytes:
    """A PNG of the page from its top, ``height`` CSS pixels of it."""
    width = chrome.execute_script("return document.documentElement.clientWidth")
    options: dict[str, Any] = {
        "captureBeyondViewport": True,
        "clip": {"x": 0, "y": 0, "width": width, "height": height, "scale": scale},
    }
    return base64.b64decode(chrome.execute_cdp_cmd("Page.captureScreenshot", options)["data"])


def _found() -> tuple[str | None, str | None]:
    return next(filter(None, map(shutil.which, NAMES)), None), shutil.which("chromedriver")
