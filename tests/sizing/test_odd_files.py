"""Model files from anywhere: what cannot be sized is refused in one line, with the file and what is wrong."""

import json
import os
import struct
from pathlib import Path
from typing import Any

import pytest

from llmload.errors import ConfigError
from llmload.sizing.catalogue import INDEX, catalogue, load_model

CONFIG: dict[str, Any] = dict(catalogue()["meta-llama/llama-2-7b-chat-hf"]["config"])
DEEP = b"[" * 100_000
OFFSETS: list[Any] = [[1], ["a", "b"], [5, 0], [0, 10**40], None]
TYPES: list[Any] = [[], {}, None, 1]


def refused(file: Path) -> str:
    with pytest.raises(ConfigError) as caught:
        load_model(str(file))
    assert len(str(caught.value).splitlines()) == 1
    assert str(caught.value).startswith(str(file))
    return str(caught.value)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (DEEP, "is not JSON: it is nested too deeply"),
        (b'{"a":' * 5000, "is not JSON: it is nested too deeply"),
        (b'{"hidden_size":' + b"9" * 5000 + b"}", "is not JSON"),
        (b"\xff", "is not JSON"),
        (b"[]", "is a JSON list"),
        (json.dumps({**CONFIG, "num_hidden_layers": 10**9}).encode(), "num_hidden_layers has 10 digits; no model has"),
        (json.dumps({**CONFIG, "hidden_size": 10**300}).encode(), "hidden_size has 301 digits; no model has more than"),
    ],
)
def test_a_config(tmp_path: Path, content: bytes, says: str) -> None:
    (tmp_path / "config.json").write_bytes(content)

    assert says in refused(tmp_path / "config.json")


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "config.json")

    assert "is not a file" in refused(tmp_path / "config.json")


TENSOR = {"dtype": "F16", "shape": [1], "data_offsets": [0, 2]}


@pytest.mark.parametrize(
    "header",
    [
        *(DEEP, b"[]", b"1", json.dumps({"a": 1}).encode(), json.dumps({"a": {}}).encode()),
        *(json.dumps({"a": {**TENSOR, "data_offsets": odd}}).encode() for odd in OFFSETS),
        *(json.dumps({"a": {**TENSOR, "dtype": odd}}).encode() for odd in TYPES),
    ],
)
def test_a_header_of_safetensors(tmp_path: Path, header: bytes) -> None:
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    (tmp_path / "m.safetensors").write_bytes(struct.pack("<Q", len(header)) + header)

    assert "is not a safetensors file" in refused(tmp_path / "m.safetensors")


@pytest.mark.parametrize(
    "content",
    [
        *({}, [], {"weight_map": []}, {"weight_map": {"a": 1}}, {"weight_map": {"a": []}}, {"weight_map": {}}),
        *({"weight_map": {"a": "x"}, "metadata": odd} for odd in TYPES),
        *({"weight_map": {"a": "x"}, "metadata": {"total_size": odd}} for odd in ("1", -5, 0, 1e300, None)),
        *({"weight_map": {"a": "x" * 5000}}, {"weight_map": {"a": "\0"}}),
    ],
)
def test_an_index(tmp_path: Path, content: Any) -> None:
    (tmp_path / INDEX).write_text(json.dumps(content))

    assert refused(tmp_path / INDEX)
