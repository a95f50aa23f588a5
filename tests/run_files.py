"""Whole summaries and manifests for tests that care about a few of their keys."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llmload.metrics.requests import REQUEST_DISTRIBUTIONS as DISTRIBUTIONS
from llmload.metrics.totals import RunTotals
from llmload.metrics.validity import Verdict
from llmload.prompts.workload import PromptPlan
from llmload.prompts.workload import load as load_prompts
from llmload.runs.build_summary import RunOutcome, build_summary
from llmload.runs.folder import Manifest
from llmload.runs.summary import NameSummary, StageSummary, Summary
from llmload.runs.summary_parts import CapacityResult, CostSummary, EngineMetrics, GpuMetrics
from llmload.scenario import Scenario

NOTHING = dict.fromkeys(("mean", "p50", "p90", "p95", "p99", "max"), 0.0) | {"count": 1}
_REPLACED = ("load", "errors", "finish_reasons", "scenario")


def scenario_of(**changes: Any) -> Scenario:
    """A small scenario, with whole tables replaced."""
    tables: dict[str, Any] = {
        "scenario": {"name": "s"},
        "engine": {"name": "vllm", "base_url": ["http://127.0.0.1:1"]},
        "model": {"name": "m"},
        "load": {"kind": "closed_loop", "users": 1, "requests": 3},
    }
    return Scenario.model_validate(tables | changes)


def summary_of(**changes: Any) -> Summary:
    """The summary of a run that measured nothing, with these keys changed: objects are filled up, lists are taken."""
    outcome = RunOutcome(
        run_id="r",
        scenario=scenario_of(),
        simulated=False,
        totals=RunTotals(),
        judged=RunTotals(),
        window_s=10.0,
        window_started_unix_s=1.0,
        verdict=Verdict.of(),
    )
    content = laid_over(build_summary(outcome).model_dump(mode="json"), filled(changes))
    return Summary.model_validate(content)


def manifest_of(scenario: Scenario | None = None, **changes: Any) -> Manifest:
    """The manifest of a run of the built-in prompts, with these keys changed."""
    manifest = Manifest.at_start(
        run_id="r",
        started_unix_s=1.0,
        scenario=scenario or scenario_of(),
        scenario_file=Path("s.toml"),
        workload=load_prompts(PromptPlan(), Path.cwd()),
        engine=None,
        simulated=False,
        workers=1,
    )
    return Manifest.model_validate(laid_over(manifest.model_dump(mode="json"), changes))


def write_json(file: Path, content: Summary | Manifest) -> None:
    file.write_text(json.dumps(content.model_dump(mode="json")))


def filled(changes: Mapping[str, Any]) -> dict[str, Any]:
    """The changes with every object that they hold a part of made whole."""
    whole = dict(changes)
    for name in set(DISTRIBUTIONS) & whole.keys():
        whole[name] = whole[name] and NOTHING | whole[name]
    if "verdict" in whole:
        reason = {"check": "c", "figure": None, "limit": None}
        reasons = [reason | each for each in whole["verdict"]["reasons"]]
        whole["verdict"] = {"doubts": []} | whole["verdict"] | {"reasons": reasons}
    if "gates" in whole:
        whole["gates"] = [{"objective": "error_share < 1", "figure": None} | gate for gate in whole["gates"]]
    if "stages" in whole:
        whole["stages"] = [_unknown(StageSummary) | {"doubts": []} | filled(stage) for stage in whole["stages"]]
    if whole.get("by_name"):
        whole["by_name"] = [_unknown(NameSummary) | {"doubts": []} | filled(name) for name in whole["by_name"]]
    for name, model in (("engine_metrics", EngineMetrics), ("gpu_metrics", GpuMetrics), ("cost", CostSummary)):
        if whole.get(name) is not None:
            counts = {key: 0 for key in model.model_fields if key.startswith("client_") and key.endswith("_tokens")}
            whole[name] = _unknown(model) | counts | whole[name]
    if whole.get("capacity") is not None:
        known = {"confidence": 0.95, "precision": 0.05, "curve": []}
        whole["capacity"] = _unknown(CapacityResult) | known | whole["capacity"]
    return whole


def _unknown(model: Any) -> dict[str, Any]:
    return dict.fromkeys(model.model_fields)


def laid_over(content: dict[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """The content with these keys changed, and with those of objects inside it."""
    laid = dict(content)
    for key, value in changes.items():
        inside = isinstance(value, dict) and isinstance(laid.get(key), dict) and key not in _REPLACED
        laid[key] = laid_over(laid[key], value) if inside else value
    return laid
