"""What the steering node watches while a run goes on: whether its workers are there and how busy they are."""

from locust.runners import STATE_MISSING, MasterRunner

from collections.abc import Mapping
from importlib.metadata import version
from typing import Any, Final

from llmload.measure.totals import RunTotals
from llmload.report.run_folder import RunFolder, read_records
from llmload.swarm.session import Share
from llmload.swarm.steering import Steering

PER_CENT: Final = 100.0


def look_after(steering: Steering, runner: Any, planned: list[str], answered: set[str]) -> set[str]:
    """Note workers that are gone or came late, and the busiest one's CPU, once a second; return who is gone now."""
    absent: set[str] = set()
    if isinstance(runner, MasterRunner):
        present = {client.id for client in runner.clients.all if client.state != STATE_MISSING}
        absent = set(planned) - present - answered
        steering.missing_workers |= absent
        steering.late_workers |= present - set(planned)
        busy = max((client.cpu_usage for client in runner.clients.all), default=0)
    else:
        busy = runner.current_cpu_usage
    if steering.stage not in {"warm-up", "draining", "ended"} and busy:
        steering.worst_cpu_share = max(steering.worst_cpu_share or 0.0, busy / PER_CENT)
    return absent


def other_versions(versions: Mapping[str, str]) -> set[str]:
    """Return the workers that run another version of llmload than this node."""
    return {worker for worker, theirs in versions.items() if theirs != version("llmload")}


def written_by(share: Share, steering: Steering) -> RunTotals | None:
    """
    Return what a lost worker wrote down, counted anew from its file; None where the file is not on this machine.

    It lies on this machine only if the worker ran here, so its clock is this node's.
    """
    records = read_records(RunFolder(steering.folder.path), share.log_name)
    if records is None:
        return None
    totals = RunTotals()
    for record in records:
        totals.started += 1
        totals.add(
            record,
            window=steering.span.window,
            slo=steering.scenario.slo_limits(),
            run_start_ns=steering.span.start_ns,
        )
    return totals
