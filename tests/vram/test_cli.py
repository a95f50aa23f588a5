"""`llmload vram` from the outside."""

import json
import subprocess
import sys
from pathlib import Path

from click.testing import CliRunner

from llmload.cli.vram import vram
from llmload.errors import ConfigError

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
