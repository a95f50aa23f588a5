"""Chromium on a page: its width and colours, what a person does there, and pictures of it."""

import base64
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from click import ClickException
from selenium import webdriver
from selenium.webdriver.chrome.service import Service

from benchmarks.tools.pictures.small import shrink

FLAGS: Final = (
    "headless=new",
    "no-sandbox",
    "disable-gpu",
    "disable-dev-shm-usage",
    "no-first-run",
    "disable-background-networking",
    "no-proxy-server",
    "hide-scrollbars",
)
WAIT_S: Final = 90.0


class Browser:
    """One window of Chromium."""

    def __init__(self, driver: Any) -> None:
        self._driver = driver

    def open(self, url: str) -> None:
        """Open a page."""
        self._driver.get(url)

    def look(self, width: int, *, dark: bool = False, height: int = 1000) -> None:
        """Set width and colours."""
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self._do("Emulation.setDeviceMetricsOverride", metrics)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self._do("Emulation.setEmulatedMedia", {"features": [scheme]})

    def run(self, script: str) -> Any:
        """Run a script in the page, and return what it returns."""
        return self._driver.execute_script(script)

    def until(self, script: str) -> None:
        """Wait until an expression is true in the page; ClickException if that takes too long."""
        wait_until(lambda: self.run(f"return {script}"), script)

    def picture(self, file: Path, most: int = 12_000) -> None:
        """Draw the whole page, but no more than `most` pixels of its height."""
        time.sleep(0.7)  # the page fits its charts to a new width
        size = self._do("Page.getLayoutMetrics")["cssContentSize"]
        clip = {"x": 0, "y": 0, "width": size["width"], "height": min(size["height"], most), "scale": 1}
        drawn = self._do("Page.captureScreenshot", {"clip": clip, "captureBeyondViewport": True})
        file.write_bytes(base64.b64decode(drawn["data"]))
        shrink(file)

    def _do(self, command: str, arguments: dict[str, Any] | None = None) -> Any:
        return self._driver.execute_cdp_cmd(command, arguments or {})


def wait_until(true: Callable[[], Any], what: str) -> None:
    """Wait until something is true; ClickException if that takes too long."""
    end_s = time.monotonic() + WAIT_S
    while not true():
        if time.monotonic() > end_s:
            raise ClickException(f"not within {WAIT_S:g} s: {what}")
        time.sleep(0.2)


@contextmanager
def opened(profile: Path) -> Iterator[Browser]:
    """Start Chromium without a window, until the context ends."""
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium is None or driver is None:
        raise ClickException("no Chromium with its driver: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in (*FLAGS, f"user-data-dir={profile}"):
        options.add_argument(f"--{flag}")
    started = webdriver.Chrome(options=options, service=Service(driver))
    try:
        yield Browser(started)
    finally:
        started.quit()
