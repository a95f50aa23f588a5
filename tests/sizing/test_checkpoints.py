"""Weight files by their headers: safetensors, its index, GGUF; and a config from a stand-in for the Hub."""

import json
import struct
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from llmload.errors import ConfigError
from llmload.sizing.architecture import count_parameters
from llmload.sizing.catalogue import catalogue, load_model
from llmload.sizing.checkpoint_files import INDEX, folder_checkpoint
from llmload.sizing.engine_memory import kept_tables_bytes
from llmload.sizing.fit import default_format, rank_weights
from llmload.sizing.kv_cache import KvCache
from llmload.sizing.speed import decode_step_bytes
from llmload.sizing.weights import Parallelism

LLAMA = dict(catalogue()["llama-3.2-1b-instruct"]["config"])


def write_safetensors(path: Path, tensors: dict[str, tuple[str, int]]) -> None:
    """A header alone: the reader needs no more."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    start = 0
    for name, (dtype, size) in tensors.items():
        header[name] = {"dtype": dtype, "shape": [size], "data_offsets": [start, start + size]}
        start += size
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + b"\0" * 8)


def string(text: str) -> bytes:
    return struct.pack("<Q", len(text)) + text.encode()


def write_gguf(path: Path, metadata: dict[str, Any], tensors: dict[str, tuple[list[int], int]]) -> None:
    body = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(metadata))
    for key, value in metadata.items():
        body += string(key)
        if isinstance(value, str):
            body += struct.pack("<I", 8) + string(value)
        elif isinstance(value, list) and value and isinstance(value[0], str):
            body += struct.pack("<IIQ", 9, 8, len(value)) + b"".join(map(string, value))
        elif isinstance(value, list):
            body += struct.pack("<IIQ", 9, 4, len(value)) + struct.pack(f"<{len(value)}I", *value)
        else:
            body += struct.pack("<II", 4, value)
    for name, (shape, kind) in tensors.items():
        body += string(name) + struct.pack("<I", len(shape)) + struct.pack(f"<{len(shape)}Q", *shape)
        body += struct.pack("<IQ", kind, 0)
    path.write_bytes(body)


SMOL = {
    "general.architecture": "llama",
    "llama.embedding_length": 576,
    "llama.block_count": 30,
    "llama.feed_forward_length": 1536,
    "llama.attention.head_count": 9,
    "llama.attention.head_count_kv": 3,
    "llama.context_length": 8192,
    "tokenizer.ggml.tokens": ["<s>", "</s>"],
}
SMOL_TENSORS = {"token_embd.weight": ([576, 49152], 8), "blk.0.attn_q.weight": ([576, 576], 3)}


def test_a_directory_is_sized_by_its_files_and_not_by_the_formats_that_might_be_in_it(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(LLAMA))
    write_safetensors(tmp_path / "a.safetensors", {"model.norm.weight": ("BF16", 1000), "x": ("F8_E4M3", 5000)})
    write_safetensors(tmp_path / "b.safetensors", {"vision_tower.patch.weight": ("BF16", 700)})

    model = load_model(str(tmp_path))

    assert model.checkpoint is not None
    assert model.checkpoint.tensor_bytes == 6700
    assert dict(model.checkpoint.bytes_by_type) == {"BF16": 1700, "F8_E4M3": 5000}
    assert model.checkpoint.beside_language_bytes == 700
    assert default_format(model) == "file"
    assert rank_weights(model, "file").best == 6700 + kept_tables_bytes(model)


def test_ranks_share_what_the_files_hold(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(LLAMA))
    whole = 2 * count_parameters(load_model("Llama-3.2-1B-Instruct")).total
    write_safetensors(tmp_path / "model.safetensors", {"x": ("BF16", whole)})
    model = load_model(str(tmp_path / "model.safetensors"))

    by_file = rank_weights(model, "file", Parallelism(tensor=4)).best
    assert by_file == pytest.approx(rank_weights(model, "bf16", Parallelism(tensor=4)).best, rel=1e-6)


def test_an_index_is_followed_to_its_files_and_else_gives_its_sum(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(LLAMA))
    index = tmp_path / INDEX
    index.write_text(json.dumps({"metadata": {"total_size": 999}, "weight_map": {"x": "one.safetensors"}}))

    absent = load_model(str(index)).checkpoint
    write_safetensors(tmp_path / "one.safetensors", {"x": ("BF16", 1234)})
    present = load_model(str(index)).checkpoint

    assert absent is not None
    assert (absent.tensor_bytes, absent.bytes_by_type) == (999, ())
    assert present is not None
    assert present.tensor_bytes == 1234


def test_a_directory_without_weights_is_sized_by_its_config(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(LLAMA))

    assert folder_checkpoint(tmp_path) is None
    assert default_format(load_model(str(tmp_path))) == "bf16"


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"\xff" * 40, "its header would be"),
        ((4).to_bytes(8, "little") + b"oops", "is not a safetensors file"),
        ((2).to_bytes(8, "little") + b"[]", "its header is no object"),
    ],
)
def test_damaged_safetensors_are_refused(content: bytes, problem: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(LLAMA))
    (tmp_path / "model.safetensors").write_bytes(content)

    with pytest.raises(ConfigError, match=problem):
        load_model(str(tmp_path))


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"weight_map": {"x": "gone.safetensors"}}'])
def test_damaged_indexes_are_refused(content: str, tmp_path: Path) -> None:
    (tmp_path / INDEX).write_text(content)

    with pytest.raises(ConfigError, match=r"model\.safetensors\.index\.json: (is not|has no)"):
        folder_checkpoint(tmp_path)


def test_a_gguf_header_gives_the_model_and_its_bytes(tmp_path: Path) -> None:
    path = tmp_path / "smol.gguf"
    write_gguf(path, SMOL, SMOL_TENSORS)
    model = load_model(str(path))

    assert count_parameters(model).total == 134_515_008
    assert KvCache(model=model).bytes_per_token == 30 * 2 * 3 * 64 * 2
    assert model.checkpoint is not None
    assert decode_step_bytes(model, weight_format="file") == model.checkpoint.tensor_bytes  # tied: all of it is read
    assert dict(model.checkpoint.bytes_by_type) == {"Q8_0": 576 * 49152 // 32 * 34, "Q4_1": 576 * 576 // 32 * 20}
    assert default_format(model) == "file"


def test_a_gguf_with_experts_is_a_mixtral_and_with_an_own_head_is_not_tied(tmp_path: Path) -> None:
    path = tmp_path / "moe.gguf"
    experts = {"llama.expert_count": 8, "llama.expert_used_count": 2, "llama.attention.head_count_kv": [3] * 30}
    write_gguf(path, SMOL | experts, SMOL_TENSORS | {"output.weight": ([576, 49152], 14)})
    model = load_model(str(path))

    assert model.model_type == "mixtral"
    assert count_parameters(model).lm_head == 576 * 49152
    assert count_parameters(model).idle_experts * 4 == count_parameters(model).experts * 3


@pytest.mark.parametrize(
    ("metadata", "tensors", "problem"),
    [
        (SMOL | {"general.architecture": "rwkv6"}, SMOL_TENSORS, "general.architecture = 'rwkv6' is not one"),
        (SMOL | {"llama.attention.head_count_kv": [3, 1] * 15}, SMOL_TENSORS, "differs from layer to layer"),
        (SMOL, {"x": ([1], 99)}, "tensor x is of type 99"),
    ],
)
def test_ggufs_that_are_not_known_are_refused(
    metadata: dict[str, Any], tensors: dict[str, tuple[list[int], int]], problem: str, tmp_path: Path
) -> None:
    path = tmp_path / "m.gguf"
    write_gguf(path, metadata, tensors)

    with pytest.raises(ConfigError, match=problem):
        load_model(str(path))


@pytest.mark.parametrize(("content", "problem"), [(b"GGML" + b"\0" * 20, "not a GGUF file"), (b"GGUF\3", "ends early")])
def test_damaged_ggufs_are_refused(content: bytes, problem: str, tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(content)

    with pytest.raises(ConfigError, match=problem):
        load_model(str(path))


class StandIn(BaseHTTPRequestHandler):
    """A Hub with one open and one gated model."""

    def do_GET(self) -> None:
        if "gated" in self.path and self.headers.get("Authorization") != "Bearer secret":
            self.send_error(401)
        elif self.path.endswith("/resolve/main/config.json") and "absent" not in self.path:
            body = b"[]" if "list" in self.path else json.dumps(LLAMA).encode()
            self.send_response(200)
            self.end_headers()
            self.wfile.write(body)
        else:
            self.send_error(404)

    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    server = HTTPServer(("127.0.0.1", 0), StandIn)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}/")
    monkeypatch.delenv("HF_TOKEN", raising=False)
    yield
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.usefixtures("hub")
def test_the_hub_is_asked_only_when_told_to(monkeypatch: pytest.MonkeyPatch) -> None:
    assert count_parameters(load_model("some/model", hub=True)).total == 1_235_814_400
    with pytest.raises(ConfigError, match="neither in the catalogue"):
        load_model("some/model")
    with pytest.raises(ConfigError, match="HTTP 401; set HF_TOKEN"):
        load_model("some/gated", hub=True)
    monkeypatch.setenv("HF_TOKEN", "secret")
    assert load_model("some/gated", hub=True).model_type == "llama"


@pytest.mark.usefixtures("hub")
@pytest.mark.parametrize(
    ("name", "problem"),
    [("some/absent", "HTTP 404"), ("some/list", "holds no config"), ("no id", "is not a Hub id")],
)
def test_what_the_hub_does_not_have_is_said(name: str, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        load_model(name, hub=True)


def test_a_hub_that_cannot_be_reached_or_is_no_address_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(ConfigError, match="cannot be read"):
        load_model("some/model", hub=True)
    monkeypatch.setenv("HF_ENDPOINT", "file:///etc")
    with pytest.raises(ConfigError, match="is not an http address"):
        load_model("some/model", hub=True)
