"""`llmload vram` from the outside."""

import json
import re
import resource
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from llmload.cli.vram import vram
from llmload.errors import ConfigError
from llmload.sizing.cards import chosen_gpu, gpus
from llmload.sizing.catalogue import catalogue, load_model
from llmload.sizing.speed import decode_bound_tokens_per_s
from llmload.sizing.text import gpus_text

ROOT = Path(__file__).parents[2]
HEAVY = ("torch", "locust", "pandas", "datasets", "numpy", "pydantic", "rich", "openai", "gevent")


def test_the_reference_table_is_printed_as_in_the_document() -> None:
    result = CliRunner().invoke(vram, ["table", "--rule", "reference"])

    assert result.exit_code == 0
    assert result.stdout == (Path(__file__).parent / "data" / "reference_table.md").read_text()


def test_named_models_replace_those_of_the_reference_table() -> None:
    result = CliRunner().invoke(vram, ["table", "--json", "Qwen3-32B", "llama-2-70b"])

    rows = json.loads(result.stdout)["rows"]
    assert [row["model"] for row in rows] == ["Qwen3-32B", "llama-2-70b"]
    assert rows[1]["memory_gib"]["FP16/BF16"] == 153.78


def test_an_unknown_model_is_an_error_of_one_line() -> None:
    result = CliRunner().invoke(vram, ["table", "no-such-model"])

    assert isinstance(result.exception, ConfigError)
    assert "\n" not in str(result.exception)


def test_sizing_a_model_imports_nothing_heavy() -> None:
    program = (
        "import sys; from llmload.cli.vram import vram; vram(['table'], standalone_mode=False);"
        f"sys.exit(' '.join(set({HEAVY!r}) & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)

    assert done.stderr.strip() == ""


def test_show_gives_parameters_weights_and_cache_for_people() -> None:
    lines = CliRunner().invoke(vram, ["show", "Llama-3.1-8B-Instruct"]).stdout.splitlines()

    assert lines[0] == (
        "Llama-3.1-8B-Instruct: llama, 32 layers, hidden size 4,096, vocabulary 128,256, context 131,072 tokens"
    )
    assert "  total                   8,030,261,248" in lines
    assert "  a token 128 KiB" in lines
    assert "    131,072 tokens    16.000 GiB" in lines
    assert any("bf16      14.96" in line for line in lines)


def test_show_gives_the_same_as_json_in_bytes() -> None:
    sheet = json.loads(CliRunner().invoke(vram, ["show", "--json", "--kv-dtype", "fp8", "gemma-3-12b-it"]).stdout)

    assert sheet["params"]["total"] == 11_766_034_176
    assert sheet["weights_bytes"]["bf16"] == 2 * 11_766_034_176
    assert sheet["kv_bytes_per_token"] == 48 * 4096
    assert sheet["kv_bytes_per_token_beyond_windows"] == 8 * 4096
    assert sheet["sequence_bytes_by_context_tokens"]["8192"] == 4096 * (8 * 8192 + 40 * 1024)


def test_show_says_what_it_omits_and_what_the_config_declares(tmp_path: Path) -> None:
    inner = dict(catalogue()["gemma-3-4b-it"]["config"])
    outer = {
        "model_type": "gemma3",
        "text_config": inner,
        "vision_config": {"hidden_size": 1152},
        "quantization_config": {"quant_method": "awq"},
    }
    (tmp_path / "config.json").write_text(json.dumps(outer))

    text = CliRunner().invoke(vram, ["show", str(tmp_path)]).stdout
    assert "Not counted: vision_config" in text
    assert "The config declares quantised weights: awq" in text


def test_show_separates_an_encoders_input_from_the_decoders_context() -> None:
    text = CliRunner().invoke(vram, ["show", "t5-v1_1-xxl"]).stdout

    assert "24 + 24 layers" in text
    assert "a token of the encoder's input 384 KiB, not in the contexts below" in text


def test_gpus_and_models_are_listed_in_both_forms() -> None:
    runner = CliRunner()

    assert len(json.loads(runner.invoke(vram, ["gpus", "--json"]).stdout)) == len(gpus())
    assert len(json.loads(runner.invoke(vram, ["models", "--json"]).stdout)) == 97
    assert runner.invoke(vram, ["gpus"]).stdout == gpus_text(gpus()) + "\n"
    assert runner.invoke(vram, ["models"]).stdout.splitlines()[0].split() == ["llama-7b", "huggyllama/llama-7b"]


SERVED_LOG = """Initializing a V1 LLM engine (v0.19.0) with config: model='meta-llama/Llama-3.2-1B-Instruct', \
dtype=torch.bfloat16, max_seq_len=8192, tensor_parallel_size=1, pipeline_parallel_size=1, quantization=None
Model loading took 2.32 GiB memory and 3 seconds
Available KV cache memory: 10.00 GiB
GPU KV cache size: 327,680 tokens
Maximum concurrency for 8,192 tokens per request: 40.00x
"""
SERVED_METRICS = 'vllm:cache_config_info{block_size="16",cache_dtype="auto",num_gpu_blocks="20480"} 1.0\n'


def examples() -> list[list[str]]:
    """Every `llmload vram` line of the help texts and of the documents."""
    texts = [CliRunner().invoke(vram, [verb, "--help"]).stdout for verb in vram.commands]
    lines = [line for text in texts for line in text.splitlines() if line.startswith("    llmload vram ")]
    for page in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]:
        blocks = re.findall(r"^```sh\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
        lines += [line for block in blocks for line in block.splitlines() if line.startswith("llmload vram ")]
    return [shlex.split(line, comments=True)[2:] for line in lines]


def test_each_verb_has_at_least_two_examples() -> None:
    verbs = [args[0] for args in examples()]

    assert all(verbs.count(verb) >= 2 for verb in vram.commands)


@pytest.mark.parametrize("args", examples(), ids=" ".join)
def test_an_example_of_the_help_texts_and_documents_works(
    args: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "vllm.log").write_text(SERVED_LOG)
    (tmp_path / "metrics.txt").write_text(SERVED_METRICS)
    monkeypatch.chdir(tmp_path)

    assert CliRunner().invoke(vram, args).exit_code == 0


def run(*args: str) -> tuple[int, str]:
    result = CliRunner().invoke(vram, list(args))
    return result.exit_code, result.stdout


def test_what_does_not_fit_ends_with_exit_code_1_and_says_what_would() -> None:
    code, text = run("fit", "Llama-3.1-70B-Instruct", "--gpu", "H100-SXM5", "--context", "8192")

    assert code == 1
    assert text.startswith("Llama-3.1-70B-Instruct on 1 x H100-SXM5-80GB: DOES NOT FIT\n")
    assert "  - w4a16 weights" in text


@pytest.mark.parametrize(
    "args",
    [
        "fit Qwen3-8B --gpu-memory-gib nan",
        "fit Qwen3-8B --gpu-memory-gib inf",
        "fit Qwen3-8B --gpu-memory-gib 1e300",
        "fit Qwen3-8B --gpu-memory-gib -1",
        "fit Qwen3-8B --gpu L4 --cpu-offload-gib nan",
        "fit Qwen3-8B --gpu L4 --count 1000000000 --gpus-per-node 1000000000",
        f"fit Qwen3-8B --gpu L4 --context 1{'0' * 400}",
        f"fit Qwen3-8B --gpu L4 --users 1{'0' * 400}",
        "pool Qwen3-8B --gib nan",
        "pool Qwen3-8B --gib 1e308",
        f"pool Qwen3-8B --gib 1 --block-size 1{'0' * 400}",
        "bound Qwen3-8B --gpu-bandwidth inf",
        f"bound Qwen3-8B --gpu L4 --context 1{'0' * 400}",
    ],
)
def test_numbers_that_no_machine_has_are_refused_by_the_option(args: str) -> None:
    result = CliRunner().invoke(vram, args.split())

    assert result.exit_code == 2
    assert "Error: Invalid value for '--" in result.stderr


@pytest.mark.parametrize("gib", ["1e-9", "1e9"])
@pytest.mark.parametrize("engine", ["vllm", "sglang", "llama.cpp"])
def test_the_least_and_the_most_memory_have_an_answer(gib: str, engine: str, tmp_path: Path) -> None:
    page = str(tmp_path / "page.html")
    code, text = run("fit", "Qwen3-8B", "--gpu-memory-gib", gib, "--engine", engine, "--html", page)

    assert (code, text.splitlines()[0].rpartition(": ")[2]) == ((1, "DOES NOT FIT") if "-" in gib else (0, "FITS"))


def test_fit_takes_every_setting_and_gives_json() -> None:
    code, text = run(
        "fit", "Qwen3-30B-A3B", "--gpu", "H100-SXM5", "--count", "4", "--tp", "2", "--ep", "--precision", "fp8",
        "--kv-dtype", "fp8", "--context", "16000", "--users", "20", "--engine", "vllm", "--engine-version", "0.19",
        "--utilization", "0.95", "--json",
    )  # fmt: skip
    found = json.loads(text)

    assert (code, found["verdict"], found["copies"], found["expert_parallel"]) == (0, "fits", 2, True)
    assert (found["engine_version"], found["utilization"], found["precision"]) == ("0.19", 0.95, "fp8")
    assert found["max_concurrency"]["low"] <= found["max_concurrency"]["best"] <= found["max_concurrency"]["high"]


@pytest.mark.parametrize("names", [("--max-num-seqs", "--max-num-batched-tokens"),
                                   ("--max-running-requests", "--chunked-prefill-size")])  # fmt: skip
def test_fit_takes_an_engines_own_names_for_what_it_admits(names: tuple[str, str]) -> None:
    asked = ("fit", "Qwen3-8B", "--gpu", "L40S", "--context", "8192", "--json")
    usual = json.loads(run(*asked)[1])
    wide = json.loads(run(*asked, names[0], "512", names[1], "16384")[1])

    assert (wide["max_num_seqs"], wide["max_num_batched_tokens"]) == (512, 16384)
    assert wide["kv_pool_gib"]["best"] < usual["kv_pool_gib"]["best"]


def test_an_eager_engine_has_the_memory_of_its_graphs_for_the_cache() -> None:
    asked = ("fit", "Qwen3-8B", "--gpu", "L40S", "--context", "8192", "--json")
    usual, eager = json.loads(run(*asked)[1]), json.loads(run(*asked, "--enforce-eager")[1])

    assert usual["cuda_graphs_gib"]["best"] > 0
    assert eager["cuda_graphs_gib"] == {"low": 0, "best": 0, "high": 0}
    assert eager["kv_pool_gib"]["best"] > usual["kv_pool_gib"]["best"]


def test_a_model_without_a_longest_context_needs_one() -> None:
    result = CliRunner().invoke(vram, ["fit", "t5-v1_1-xxl", "--gpu", "H100-SXM5"])

    assert isinstance(result.exception, ConfigError)
    assert "states no longest context: give --context" in str(result.exception)


def test_other_rules_and_formats_of_the_table() -> None:
    assert run("table", "--rule", "exact", "--precision", "BF16", "Qwen3-0.6B")[1] == (
        "| Model      | Parameters | bf16 |\n|------------|-----------:|-----:|\n| Qwen3-0.6B |       596m | 1.11 |\n"
    )
    assert run("table", "--csv", "--precision", "fp16", "llama-2-70b")[1] == (
        "model,parameters,FP16/BF16 (GiB)\nllama-2-70b,68714504192,153.78\n"
    )
    total = json.loads(run("table", "--rule", "total", "--json", "llama-2-70b")[1])
    assert total["rows"][0]["memory_gib"]["FP16/BF16"] == 154.17
    assert len(run("table", "--rule", "total")[1].splitlines()) == 2 + 11
    refused = CliRunner().invoke(vram, ["table", "--rule", "total", "--precision", "int3"])
    assert isinstance(refused.exception, ConfigError)


def test_a_measured_speed_is_compared_with_its_bound() -> None:
    code, text = run("bound", "vicuna-7b-v1.3", "--gpu", "A100-SXM4-80GB", "--measured", "160")

    assert code == 0
    assert "MBU 103.7%" in text
    assert "implausible: 104% of the bandwidth bound" in text
    with pytest.raises(ConfigError, match="no GPU is given"):
        CliRunner().invoke(vram, ["bound", "vicuna-7b-v1.3"], catch_exceptions=False)


def test_a_card_that_is_not_known_is_described_by_its_memory_and_bandwidth() -> None:
    found = json.loads(run("fit", "Qwen3-8B", "--gpu", "Z80", "--gpu-memory-gib", "60", "--json")[1])
    bounds = json.loads(run("bound", "Qwen3-8B", "--gpu-bandwidth", "1200", "--json")[1])

    assert (found["gpu"], found["gpu_memory_gib"], found["gpu_memory_is_measured"]) == ("Z80", 60, True)
    assert bounds["decode"][0]["bound_tokens_per_s"] == pytest.approx(1200e9 / 2**30 / bounds["decode"][0]["step_gib"])
    assert bounds["prefill_bound_tokens_per_s"] is None
    with pytest.raises(ConfigError, match="bandwidth of GPU as described is not known: give --gpu-bandwidth"):
        decode_bound_tokens_per_s(load_model("Qwen3-8B"), chosen_gpu(None, 60.0))


def test_a_log_is_compared_with_its_estimate(tmp_path: Path) -> None:
    log = tmp_path / "vllm.log"
    log.write_text(SERVED_LOG)
    rows = json.loads(run("check-log", str(log), "--json")[1])["comparison"]
    by_name = {row["quantity"]: row for row in rows}

    assert (by_name["tokens"]["logged"], by_name["tokens"]["estimated"]) == (327_680, 327_680)
    assert abs(by_name["weights_gib"]["difference_percent"]) < 1


def test_a_verb_takes_less_than_0_3_s_of_processor_time() -> None:
    """Processor time, since a machine that is busy with something else says nothing about this program."""
    program = [sys.executable, "-m", "llmload.cli.main", "vram"]
    compare = ["compare", "Qwen3-32B", "--gpus", "L40S,H100-SXM5,MI300X", "--users", "8"]
    for verb in (["fit", "gpt-oss-120b", "--gpu", "H100-SXM5"], ["table"], ["bound"], ["show", "DeepSeek-V3"], compare):
        took_s: list[float] = []
        while len(took_s) < 3 and min(took_s, default=1.0) >= 0.3:
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            subprocess.run([*program, *verb], capture_output=True, check=False)
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            took_s.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
        assert min(took_s) < 0.3, f"{verb}: {took_s}"


def test_no_verb_imports_anything_heavy() -> None:
    verbs = (
        ["fit", "gpt-oss-120b", "--gpu", "H100-SXM5"],
        ["bound"],
        ["gpus", "--local"],
        ["show", "DeepSeek-V3"],
        ["pool", "--gib", "12", "Qwen3-8B"],
        ["compare", "Qwen3-8B", "--gpus", "L4,A10G"],
    )
    program = (
        "import sys; from llmload.cli.vram import vram;"
        "[vram(verb, standalone_mode=False) for verb in " + repr(verbs) + "];"
        f"sys.exit(' '.join(set({HEAVY!r}) & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)

    assert done.stderr.strip() == ""
