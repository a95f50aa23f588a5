"""`llmload vram` from the outside."""

import json
import subprocess
import sys
from pathlib import Path

from click.testing import CliRunner

from llmload.cli.vram import vram
from llmload.errors import ConfigError
from llmload.vram.catalogue import catalogue

HEAVY = ("torch", "locust", "pandas", "datasets", "numpy", "pydantic", "rich", "openai", "gevent")


def test_the_seed_table_is_printed_as_the_seed_has_it() -> None:
    result = CliRunner().invoke(vram, ["table", "--rule", "seed"])

    assert result.exit_code == 0
    assert result.stdout == (Path(__file__).parent / "data" / "seed_table.md").read_text()


def test_named_models_replace_the_seeds() -> None:
    result = CliRunner().invoke(vram, ["table", "--json", "Qwen3-32B", "llama-2-70b"])

    rows = json.loads(result.stdout)["rows"]
    assert [row["model"] for row in rows] == ["Qwen3-32B", "llama-2-70b"]
    assert rows[1]["memory_gib"]["FP16/BF16"] == 153.78


def test_an_unknown_model_raises_what_the_program_prints_as_one_line() -> None:
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


def test_show_says_what_it_leaves_out_and_what_the_config_declares(tmp_path: Path) -> None:
    inner = dict(catalogue()["gemma-3-4b-it"]["config"])
    outer = {
        "model_type": "gemma3",
        "text_config": inner,
        "vision_config": {"hidden_size": 1152},
        "quantization_config": {"quant_method": "awq"},
    }
    (tmp_path / "config.json").write_text(json.dumps(outer))

    text = CliRunner().invoke(vram, ["show", str(tmp_path)]).stdout
    assert "Language model only, not counted: vision_config" in text
    assert "The config declares quantised weights: awq" in text


def test_show_tells_an_encoders_input_from_the_decoders_context() -> None:
    text = CliRunner().invoke(vram, ["show", "t5-v1_1-xxl"]).stdout

    assert "24 + 24 layers" in text
    assert "a token of the encoder's input 384 KiB, not in the contexts below" in text


def test_gpus_and_models_are_listed_in_both_forms() -> None:
    runner = CliRunner()

    assert len(json.loads(runner.invoke(vram, ["gpus", "--json"]).stdout)) == 21
    assert len(json.loads(runner.invoke(vram, ["models", "--json"]).stdout)) == 60
    assert len(runner.invoke(vram, ["gpus"]).stdout.splitlines()) == 22
    assert runner.invoke(vram, ["models"]).stdout.splitlines()[0].split() == ["llama-7b", "huggyllama/llama-7b"]


def test_the_examples_in_the_help_texts_work() -> None:
    runner = CliRunner()
    helps = [runner.invoke(vram, [verb, "--help"]).stdout for verb in vram.commands]
    examples = [
        line.split()[2:] for text in helps for line in text.splitlines() if line.startswith("    llmload vram ")
    ]

    assert len(examples) >= 2 * len(helps)
    assert [args for args in examples if runner.invoke(vram, args).exit_code != 0] == []
