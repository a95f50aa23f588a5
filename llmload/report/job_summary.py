"""A run as a page of Markdown for a CI system's job."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from llmload.errors import RunFolderError
from llmload.report.cost import cost_rows
from llmload.report.gates import run_checks
from llmload.report.junit import Judgement
from llmload.report.tables import COLUMNS, LATENCIES, load_text, milliseconds, number, prefix_cache_rows

SHOWN: Final = {
    Judgement.PASSED: "passed",
    Judgement.FAILED: "**FAILED**",
    Judgement.UNDECIDED: "**INVALID**",
    Judgement.SKIPPED: "not judged",
}


def job_summary(summary: Mapping[str, Any]) -> str:
    """Return checks, figures and latencies of a run."""
    checks = run_checks(summary)
    bad = [check for check in checks if check.judgement in {Judgement.FAILED, Judgement.UNDECIDED}]
    simulated = " Simulated engine: no real engine was measured." if summary["simulated"] else ""
    return "\n\n".join(
        [
            f"## llmload {summary['scenario']}: {'failed' if bad else 'good'}",
            f"{summary['model']} on {summary['engine']}, {load_text(summary['load'])}.{simulated}",
            _table(["", "check", "what came of it"], [[SHOWN[c.judgement], f"`{c.name}`", c.text] for c in checks]),
            _table(["figure", ""], _figures(summary)),
            _table(
                ["latency, ms", *COLUMNS],
                [
                    [name, *(milliseconds((summary[key] or {}).get(column)) for column in COLUMNS)]
                    for name, key in LATENCIES.items()
                ],
            ),
            f"Run `{summary['run_id']}`\n",
        ]
    )


def write_page(file: Path, text: str) -> None:
    """Write a page, or append it to the job summary that GitHub names; RunFolderError if that cannot be done."""
    named = os.environ.get("GITHUB_STEP_SUMMARY")
    try:
        with file.open("a" if named and Path(named) == file else "w", encoding="utf-8") as page:
            page.write(text)
    except OSError as error:
        raise RunFolderError(f"{file}: cannot be written: {error.strerror}") from None


def _figures(summary: Mapping[str, Any]) -> list[list[str]]:
    requests, speed = summary["requests"], summary["request_output_tokens_per_s"]
    counts = f"{requests['completed']} completed, {requests['failed']} failed, {requests['censored']} censored"
    return [
        ["output tokens/s of a request (mean)", number(speed and speed["mean"])],
        ["requests/min", number(summary["requests_per_min"], 1)],
        ["system output tokens/s", number(summary["output_tokens_per_s"], 1)],
        ["requests", counts],
        *([title, text] for title, text in (*prefix_cache_rows(summary), *cost_rows(summary))),
        ["window", f"{number(summary['window_s'], 1)} s"],
    ]


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(
        "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in line) + " |" for line in lines
    )
