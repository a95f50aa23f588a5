"""Weight files by their headers: safetensors, its index, GGUF; and a config from a stand-in for the Hub."""

import json
import os
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from llmload.errors import ConfigError
from llmload.sizing.catalogue import INDEX, catalogue, folder_checkpoint, load_model
from llmload.sizing.fit import rank_weights
from llmload.sizing.kv_cache import KvCache
from llmload.sizing.overhead import kept_tables_bytes
from llmload.sizing.parallelism import Parallelism
from llmload.sizing.parameters import count_parameters
from llmload.sizing.speed import decode_step_bytes
from llmload.sizing.weights import default_format

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


def test_ranks_share_the_weights_of_the_files(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(LLAMA))
    whole = 2 * count_parameters(load_model("Llama-3.2-1B-Instruct")).total
    write_safetensors(tmp_path / "model.safetensors", {"x": ("BF16", whole)})
    model = load_model(str(tmp_path / "model.safetensors"))

    by_file = rank_weights(model, "file", Parallelism(tensor=4)).best
    assert by_file == pytest.approx(rank_weights(model, "bf16", Parallelism(tensor=4)).best, rel=1e-6)


def test_headers_decide_what_each_part_takes_and_ranks_split_it_part_by_part(tmp_path: Path) -> None:
    """Experts have 4 bits and attention 16, so a rank's fraction of the bytes is not that of the parameters."""
    config = dict(catalogue()["mixtral-8x7b-instruct-v0.1"]["config"])
    counts = count_parameters(load_model("Mixtral-8x7B-Instruct-v0.1"))
    (tmp_path / "config.json").write_text(json.dumps(config))
    tensors = {
        "model.embed_tokens.weight": ("BF16", 2 * counts.embed),
        "model.layers.0.self_attn.q_proj.weight": ("BF16", 2 * counts.attention),
        "model.layers.0.block_sparse_moe.experts.0.w1.weight_packed": ("I32", counts.experts // 2),
        "model.layers.0.block_sparse_moe.gate.weight": ("BF16", 2 * counts.router),
        "model.layers.0.input_layernorm.weight": ("BF16", 2 * counts.norms),
        "lm_head.weight": ("BF16", 2 * counts.lm_head),
    }
    drafts = {"model.layers.32.mlp.down_proj.weight": ("BF16", 1000), "mtp.layers.0.fc.weight": ("BF16", 500)}
    write_safetensors(tmp_path / "model.safetensors", tensors | drafts)
    model = load_model(str(tmp_path))
    tables = kept_tables_bytes(model)

    assert model.checkpoint is not None
    assert model.checkpoint.draft_bytes == 1500
    assert dict(model.checkpoint.part_bytes)["experts"] == counts.experts // 2
    assert rank_weights(model, "file").best - tables == model.checkpoint.language_bytes
    eighth = rank_weights(model, "file", Parallelism(tensor=8)).best - tables
    assert eighth == pytest.approx(
        (model.checkpoint.language_bytes - 2 * (counts.router + counts.norms)) / 8, rel=0.001
    )


def test_a_list_of_modules_that_is_not_understood_does_not_matter_where_the_files_are(tmp_path: Path) -> None:
    config = LLAMA | {"quantization_config": {"quant_method": "fp8", "modules_to_not_convert": ["strange"]}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(
        ConfigError, match="names 'strange', which llmload does not know in llama: give --precision, or"
    ):
        default_format(load_model(str(tmp_path)))

    write_safetensors(tmp_path / "model.safetensors", {"model.norm.weight": ("BF16", 1000)})
    assert default_format(load_model(str(tmp_path))) == "file"


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
        ((2).to_bytes(8, "little") + b"[]", "its header is not an object"),
        ((2).to_bytes(8, "little") + b"{}", "has no weights: give a config.json"),
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


def test_a_gguf_with_experts_is_a_mixtral_and_with_a_head_is_not_tied(tmp_path: Path) -> None:
    path = tmp_path / "moe.gguf"
    experts = {"llama.expert_count": 8, "llama.expert_used_count": 2, "llama.attention.head_count_kv": [3] * 30}
    write_gguf(path, SMOL | experts, SMOL_TENSORS | {"output.weight": ([576, 49152], 14)})
    model = load_model(str(path))

    assert model.model_type == "mixtral"
    assert count_parameters(model).lm_head == 576 * 49152
    assert count_parameters(model).idle_experts * 4 == count_parameters(model).experts * 3


@pytest.mark.parametrize("name", ["command-r", "glm4", "seed_oss", "smollm3"])
def test_ggufs_of_newer_families_are_read(name: str, tmp_path: Path) -> None:
    path = tmp_path / "new.gguf"
    metadata = {key.replace("llama", name): name if key == "general.architecture" else SMOL[key] for key in SMOL}
    write_gguf(path, metadata | {f"{name}.attention.key_length": 64}, SMOL_TENSORS)

    assert KvCache(model=load_model(str(path))).bytes_per_token == 30 * 2 * 3 * 64 * 2


@pytest.mark.parametrize(
    ("metadata", "tensors", "problem"),
    [
        (SMOL | {"general.architecture": "rwkv6"}, SMOL_TENSORS, "general.architecture = 'rwkv6' is not one"),
        (SMOL | {"llama.attention.head_count_kv": [3, 1] * 15}, SMOL_TENSORS, "differs from layer to layer"),
        (SMOL, {"x": ([1], 99)}, "tensor x has the unknown type 99"),
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


def test_a_gguf_that_is_a_vocabulary_alone_is_refused(tmp_path: Path) -> None:
    write_gguf(tmp_path / "m.gguf", SMOL, {})

    with pytest.raises(ConfigError, match=r"m.gguf: has no weights"):
        load_model(str(tmp_path / "m.gguf"))


class StandIn(BaseHTTPRequestHandler):
    """A hub with one open and one gated model."""

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def _answer(self, *, with_body: bool) -> None:
        body, status, code = json.dumps(LLAMA).encode(), 200, ""
        if "gated" in self.path and self.headers.get("Authorization") != "Bearer secret":
            body, status, code = b"", 401, "GatedRepo"
        elif "absent" in self.path:
            body, status, code = b"", 404, "RepoNotFound"
        elif "hidden" in self.path and self.path.endswith("hf_quant_config.json"):
            body, status, code = b"", 503, ""
        elif not self.path.endswith("/resolve/main/config.json"):
            body, status, code = b"", 404, "EntryNotFound"
        elif "list" in self.path:
            body = b"[]"
        self.send_response(status)
        for name, value in {"ETag": '"one"', "X-Repo-Commit": "0" * 40, "X-Error-Code": code}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if with_body:
            self.wfile.write(body)

    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture
def hub() -> Iterator[str]:
    server = HTTPServer(("127.0.0.1", 0), StandIn)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


Show = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def show(tmp_path: Path) -> Show:
    """`llmload vram show MODEL --json` in a new process: the hub's library reads its environment once."""

    def run(endpoint: str, model: str, *options: str, **environment: str) -> "subprocess.CompletedProcess[str]":
        kept = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
        return subprocess.run(
            [sys.executable, "-m", "llmload.cli.main", "vram", "show", model, "--json", *options],
            env=kept | {"HF_ENDPOINT": endpoint, "HF_HOME": str(tmp_path)} | environment,
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )

    return run


def test_the_hub_is_read_only_with_its_option_and_its_file_is_cached(hub: str, show: Show) -> None:
    found = show(hub, "some/model", "--hub")

    assert json.loads(found.stdout)["params"]["total"] == 1_235_814_400
    assert show(hub, "some/model", "--hub", HF_HUB_OFFLINE="1").stdout == found.stdout
    assert "neither in the catalogue" in show(hub, "some/model").stderr


def test_a_gated_model_needs_a_token(hub: str, show: Show) -> None:
    refused = show(hub, "some/gated", "--hub")

    assert refused.returncode == 2
    assert "accept its terms on https://huggingface.co/some/gated, then set HF_TOKEN" in refused.stderr
    assert json.loads(show(hub, "some/gated", "--hub", HF_TOKEN="secret").stdout)["model_type"] == "llama"


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("some/absent", "hub model 'some/absent': there is none of that name"),
        ("some/list", "is a JSON list, not an object as a model config is"),
        ("some/hidden", "hub model 'some/hidden': the hub answered with status 503"),
        ("no id", "hub model 'no id': not a name of the form `owner/name`"),
    ],
)
def test_what_the_hub_does_not_have_is_reported(hub: str, show: Show, name: str, problem: str) -> None:
    refused = show(hub, name, "--hub")

    assert refused.returncode == 2
    assert problem in refused.stderr


@pytest.mark.parametrize("endpoint", ["http://127.0.0.1:9", "file:///etc"])
def test_a_hub_that_cannot_be_reached_is_reported(show: Show, endpoint: str) -> None:
    refused = show(endpoint, "some/model", "--hub")

    assert refused.returncode == 2
    assert "hub model 'some/model': the hub cannot be reached" in refused.stderr


def test_a_gguf_array_within_arrays_without_end_is_refused(tmp_path: Path) -> None:
    nested = struct.pack("<IQ", 9, 1) * 5_000
    (tmp_path / "a.gguf").write_bytes(
        b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + string("k") + struct.pack("<I", 9) + nested
    )

    with pytest.raises(ConfigError, match="ends early or is damaged"):
        load_model(str(tmp_path / "a.gguf"))
