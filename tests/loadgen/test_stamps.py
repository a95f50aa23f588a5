"""The packet ring's stamps where they were requested and are not available: refused before anything is sent."""

from pathlib import Path

import pytest

from llmload.client.packet_ring import why_unavailable
from llmload.errors import ConfigError
from llmload.loadgen.preparation import Preparation
from tests.loadgen.test_web_guard import SCENARIO, parsed

WHY = "the packet ring needs CAP_NET_RAW: run as root"


def prepared(tmp_path: Path, stamps: str, *arguments: str) -> str:
    file = tmp_path / "scenario.toml"
    file.write_text(SCENARIO)
    options = parsed(file, *arguments, "--set", f"client.stamps={stamps}")
    return Preparation(file).scenario(options).client.stamps


@pytest.mark.parametrize("arguments", [(), ("--worker",), ("--processes", "2"), ("--master", "--processes", "2")])
def test_stamps_that_are_not_available_are_refused_with_key_and_remedy(
    arguments: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llmload.loadgen.preparation.why_unavailable", lambda: WHY)

    with pytest.raises(ConfigError) as refusal:
        prepared(tmp_path, "packet", *arguments)

    expected = f"{tmp_path / 'scenario.toml'}: client.stamps = 'packet': {WHY}; or set client.stamps = 'auto'"
    assert str(refusal.value) == expected


def test_auto_and_a_master_that_sends_nothing_need_no_right(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llmload.loadgen.preparation.why_unavailable", lambda: WHY)

    assert prepared(tmp_path, "auto") == "auto"
    assert prepared(tmp_path, "packet", "--master") == "packet"


@pytest.mark.skipif(why_unavailable() is not None, reason="needs CAP_NET_RAW")
def test_stamps_that_are_available_are_taken(tmp_path: Path) -> None:
    assert prepared(tmp_path, "packet") == "packet"


def test_the_sdk_has_no_stamps_of_the_kernel(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="stamps = 'socket' needs kind = 'wire'"):
        prepared(tmp_path, "socket", "--set", "client.kind=openai")
