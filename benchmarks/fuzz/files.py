"""Readers of files: prompts, traces, scenarios, suites, configurations of models, run folders."""

import shutil
import struct
import tempfile
from functools import cache
from pathlib import Path
from typing import Any, Final

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.fuzz.reader import Input, Reader, check_refusal, read_file
from benchmarks.tools.virtual_engine import Load
from benchmarks.tools.virtual_runs import System, write_run
from llmload.errors import LlmloadError
from llmload.prometheus.pages import ENGINE, GPU
from llmload.prompts import files, formats, trace
from llmload.prompts.trace import read_trace
from llmload.prompts.workload import PromptPlan, load
from llmload.runs import folder as run_folder
from llmload.runs import loaded_run, reading
from llmload.runs.folder import ENGINE_METRICS, GPU_METRICS, USERS, RunFolder
from llmload.runs.loaded_run import load_run
from llmload.runs.samples import read_samples
from llmload.scenario.reading import load_scenario, scenario_folder, shipped_suites
from llmload.sizing.catalogue import load_model, model_entries
from llmload.suite.file import load_suite

_TALKS: Final[list[dict[str, Any]]] = [
    {"id": n, "conversations": [{"from": who, "value": f"{n} \N{ROCKET}"} for who in ("human", "gpt")]}
    for n in range(20)
]
_PARTS: Final[list[dict[str, Any]]] = [{"messages": [{"role": "user", "content": [{"type": "text", "text": "q"}]}]}] * 5


def read_prompts(file: Path) -> object:
    """Read a file of prompts as a scenario's `prompts.source`."""
    return load(PromptPlan(source=str(file), turns="all"), file.parent)


def _prompts(_: Path) -> list[Input]:
    many = {"indent.json": orjson.dumps(_TALKS, option=orjson.OPT_INDENT_2), "parts.json": orjson.dumps(_PARTS)}
    lines = {"talks.jsonl": _TALKS, "parts.jsonl": _PARTS, "lima.jsonl": [{"conversations": ["q", "a"]}] * 3}
    return [
        *(Input(name, data) for name, data in many.items()),
        *(Input(name, b"\n".join(map(orjson.dumps, rows))) for name, rows in lines.items()),
    ]


def _parquets(folder: Path) -> list[Input]:
    made = []
    for compression in ("none", "snappy", "zstd"):
        file = folder / f"{compression}.parquet"
        pq.write_table(pa.Table.from_pylist(_TALKS), file, compression=compression)
        made.append(Input(file.name, file.read_bytes()))
    return made


def _traces(_: Path) -> list[Input]:
    return [
        Input("dates.csv", b"timestamp,tokens\n2024-03-31 01:59:59,1\n2024-03-31 03:00:00.5Z,2\n"),
        Input("numbers.csv", b"timestamp,tokens\n0,1\n1.5,2\n-3,4\n"),
        Input("mooncake.jsonl", b'{"timestamp": 0, "input_length": 3, "output_length": 4}\n{"timestamp": 1500}\n'),
        Input("trace.json", b'[{"timestamp": 1.5}, {"timestamp": 2, "hash_ids": [1]}]'),
    ]


def _scenarios(_: Path) -> list[Input]:
    scenarios = [file for file in sorted(scenario_folder().glob("*.toml")) if not file.stem.endswith("-suite")]
    return [Input(file.name, file.read_bytes()) for file in scenarios]


def _suites(_: Path) -> list[Input]:
    return [Input(file.name, file.read_bytes()) for file in shipped_suites().values()]


def _configs(_: Path) -> list[Input]:
    return [Input("config.json", orjson.dumps(entry["config"])) for entry in model_entries()]


def _gguf() -> bytes:
    def text(words: str) -> bytes:
        return struct.pack("<Q", len(words)) + words.encode()

    counts = {"block_count": 2, "embedding_length": 8, "feed_forward_length": 16, "attention.head_count": 2}
    pairs = [text("general.architecture") + struct.pack("<I", 8) + text("llama")]
    pairs += [text(f"llama.{key}") + struct.pack("<II", 4, value) for key, value in counts.items()]
    pairs.append(text("tokenizer.ggml.scores") + struct.pack("<IIQ3f", 9, 6, 3, 0.5, 1, 2))
    tensor = text("token_embd.weight") + struct.pack("<IQQIQ", 2, 8, 4, 1, 0)
    return b"GGUF" + struct.pack("<IQQ", 3, 1, len(pairs)) + b"".join(pairs) + tensor + bytes(64)


def _weights(_: Path) -> list[Input]:
    header = orjson.dumps({"model.embed.weight": {"dtype": "BF16", "shape": [2, 2], "data_offsets": [0, 8]}})
    index = {"metadata": {"total_size": 8}, "weight_map": {"model.embed.weight": "none.safetensors"}}
    return [
        Input("a.gguf", _gguf()),
        Input("a.safetensors", len(header).to_bytes(8, "little") + header + bytes(8)),
        Input("model.safetensors.index.json", orjson.dumps(index)),
    ]


def read_weights(file: Path) -> object:
    """Read a file of weights, or the index of several, for what it says of their size."""
    file.with_name("config.json").write_bytes(orjson.dumps(model_entries()[0]["config"]))
    return load_model(str(file))


# A run folder is several files: one of them is changed, the others stay beside it.


@cache
def example_run() -> Path:
    """Return the folder of a short run, with every kind of file, made once a process."""
    home = Path(tempfile.mkdtemp(prefix="llmload-fuzz-run-"))
    run = write_run(home / "run", System(), Load(users=2, duration_s=6), seed=1)
    times = [RunFolder(run).manifest().started_unix_s + offset for offset in range(3)]
    (run / USERS).write_text("unix_s,users\n" + "".join(f"{each},2\n" for each in times))
    for name, figures, part in ((ENGINE_METRICS, ENGINE, ""), (GPU_METRICS, GPU, "0")):
        header = ["unix_s", "url", "part", *(figure.name for figure in figures)]
        rows = [[f"{each}", "http://127.0.0.1:9400/metrics", part, *["1.5"] * len(figures)] for each in times]
        (run / name).write_text("\n".join(map(",".join, [header, *rows])) + "\n")
    return run


def _run_files(_: Path) -> list[Input]:
    return [Input(file.name, file.read_bytes()) for file in sorted(example_run().iterdir()) if file.is_file()]


def read_run(given: Input, folder: Path) -> None:
    """Read a run folder in which one file is the input."""
    run = folder / "a-run"
    if not run.is_dir():
        shutil.copytree(example_run(), run)
    (run / given.name).write_bytes(given.data)
    try:
        loaded = load_run(RunFolder(run))
        for name in (ENGINE_METRICS, GPU_METRICS):
            read_samples(run, name, loaded.manifest.started_unix_s)
    except LlmloadError as error:
        check_refusal(str(error), run)
        raise
    finally:
        shutil.copyfile(example_run() / given.name, run / given.name)


READERS: Final = (
    Reader("prompts as JSON", _prompts, read_file(read_prompts), (files, formats)),
    Reader("prompts as Parquet", _parquets, read_file(read_prompts)),  # guided inputs allow no fork
    Reader("trace", _traces, read_file(lambda file: read_trace(file.name, "timestamp", file.parent)), (files, trace)),
    Reader("scenario", _scenarios, read_file(load_scenario)),
    Reader("suite", _suites, read_file(load_suite)),
    Reader("configuration of a model", _configs, read_file(lambda file: load_model(str(file)))),
    Reader("weights of a model", _weights, read_file(read_weights)),
    Reader("run folder", _run_files, read_run, (reading, loaded_run, run_folder)),
)
