"""Screenshots of a page with Chromium."""

import shutil
import subprocess
from pathlib import Path

from click import ClickException


def browser(profile: Path) -> list[str]:
    """Return Chromium's command line without a page, with its network features off."""
    found = shutil.which("chromium") or shutil.which("google-chrome")
    if found is None:
        raise ClickException("no Chromium: apt-get install chromium")
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars"]
    options += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
    return [found, *options, f"--user-data-dir={profile}"]


def screenshot(page_file: Path, out: Path, profile: Path, size: tuple[int, int]) -> None:
    """Draw the page as PNG."""
    command = [*browser(profile), f"--screenshot={out}", f"--window-size={size[0]},{size[1]}", page_file.as_uri()]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
