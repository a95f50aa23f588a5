"""Suite files for the simulated engine, as local processes."""

from pathlib import Path
from typing import Protocol

import pytest

SUITE = """
[suite]
name = "sim"
warmup_requests = 0
[engines.quick]
engine = "simulated"
options = ["--ttft-s", "0.01", "--itl-s", "0.01", "--output-tokens", "8", "--itl-load-factor", "0"]
[models.one]
[protocols.speed]
scenario = "lima-speed"
set = ["prompts.source=builtin", "prompts.count=3", "load.requests=3"]
"""


class WriteSuite(Protocol):
    """Writes a suite file with each (old, new) text replaced and further tables added."""

    def __call__(self, *changes: tuple[str, str], further: str = "", text: str = SUITE) -> Path: ...


@pytest.fixture
def write_suite(tmp_path: Path) -> WriteSuite:
    """Write a suite file: the sound one, with texts replaced and tables added."""

    def write(*changes: tuple[str, str], further: str = "", text: str = SUITE) -> Path:
        for old, new in changes:
            assert old in text
            text = text.replace(old, new)
        file = tmp_path / "x-suite.toml"
        file.write_text(text + further, encoding="utf-8")
        return file

    return write
