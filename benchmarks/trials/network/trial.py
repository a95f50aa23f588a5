"""One row: it is run, and what the client says is compared with the engine's log and the capture."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Self

import numpy as np

from benchmarks import ROOT
from benchmarks.tools.hosts import Host, Network
from benchmarks.tools.truth_engine.engine import THIS_MACHINE, TruthEngine
from benchmarks.tools.truth_engine.log import TrueAnswer
from benchmarks.trials.network.capture import Captured, departures_off_us, differences_us
from benchmarks.trials.network.client import ClientTask
from benchmarks.trials.network.link import BadLink
from benchmarks.trials.network.rows import Place, Row, Through

MAX_DIFFERENCE_US: Final = 50.0
"""Between 99.9 % of the ring's stamps and the capture's."""
MOST: Final = 0.97
"""Of the chunks must be in the capture too: it is a small program that may miss some."""
MAX_LATE_US: Final = 50.0
"""Of 99 % of the stamps, behind the engine's clock before it writes: the write itself takes some of it."""
MAX_ITL_CHANGE: Final = 0.002
MAX_READER_CHANGE: Final = 0.02
"""Between two runs that differ in how the client reads."""
MAX_TURNAROUND_S: Final = 0.005
"""From the end of 90 % of the answers to the next request: 2 ms on a machine with nothing else to do."""
MAX_STREAM_KIB: Final = 30.0
_MANY_STREAMS: Final = 1_000
_WAIT_S: Final = 120

Record = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Client:
    """What a client reported."""

    records: list[Record]
    drops: int | None
    cpu_s: float
    stream_kib: float


@dataclass(frozen=True, slots=True)
class Reader:
    """What a prompt reader saw of the same work, and when the engine wrote it."""

    itl_s: Any
    true_itl_s: Any

    @classmethod
    def of(cls, clients: list[Client], truth: dict[str, TrueAnswer], _: Captured | None) -> Self:
        """Return it for a run."""
        records = clients[0].records
        return cls(_gaps_s(records), _true_gaps_s(records, truth))


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """A row, what came of it in words, and what is not as it must be."""

    row: Row
    cells: dict[str, str]
    faults: list[str]


def run_row(row: Row, folder: Path) -> Result:
    """Run a row in an empty folder and judge it."""
    clients, truth, captured = _run(row, folder, "packet")
    reader = None
    if row.beside_reader:
        again = folder / "reader"
        again.mkdir()
        reader = Reader.of(*_run(row, again, "socket"))
    return _judge(row, clients, truth, captured, reader)


def _run(row: Row, folder: Path, stamps: Any) -> tuple[list[Client], dict[str, TrueAnswer], Captured | None]:
    with ExitStack() as stack:
        near, far = _hosts(row, stack)
        engines = [
            stack.enter_context(TruthEngine(row.schedule, _made(folder / f"engine{n}"), host=far, tls=row.tls))
            for n in range(row.engines)
        ]
        environment, port = _proxy(row, stack)
        ports = [port] if port else [engine.port for engine in engines]
        capture = None if row.tls or row.users > _MANY_STREAMS else _capture(near, folder, ports)
        tasks = [
            ClientTask(
                base_urls=tuple(engine.base_url for engine in engines),
                users=row.users,
                turns=row.turns,
                stamps=stamps,
                ca_file=str(engines[0].ca_file) if row.tls else None,
                ramp_s=row.ramp_s,
                ring_bytes=row.ring_bytes,
                name=chr(ord("a") + number),
            )
            for number in range(row.clients)
        ]
        clients = _run_clients(row, tasks, near, folder, environment)
        if capture is not None:
            time.sleep(0.2)
            capture.terminate()
            capture.communicate(timeout=_WAIT_S)
    truth = {answer.request_id: answer for engine in engines for answer in engine.log.answers}
    return clients, truth, None if capture is None else Captured(folder / "capture")


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


def _hosts(row: Row, stack: ExitStack) -> tuple[Host, Host]:
    """Return the client's host and the engine's."""
    if row.place is Place.VETH:
        hub, near = stack.enter_context(Network("hub", "near")).hosts
        return near, hub
    if row.place is Place.LINK:
        link = stack.enter_context(BadLink(delay_s=row.delay_s, loss=row.loss, reordered=row.reordered))
        return link.near, link.far
    return THIS_MACHINE, replace(THIS_MACHINE, address="::1") if row.place is Place.IPV6 else THIS_MACHINE


def _proxy(row: Row, stack: ExitStack) -> tuple[dict[str, str], int]:
    """Return the client's environment, and the port of the proxy that it names; 0 without one."""
    if row.through is Through.NOTHING:
        return dict(os.environ), 0
    command = [sys.executable, "-m", "benchmarks.trials.network.proxy"]
    process = stack.enter_context(subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True))
    stack.callback(process.terminate)
    assert process.stdout is not None  # noqa: S101 - Popen made a pipe
    port = int(process.stdout.readline())
    url = f"http://127.0.0.1:{port}"
    return {**os.environ, "http_proxy": url, "https_proxy": url, "no_proxy": ""}, port


def _capture(near: Host, folder: Path, ports: Sequence[int]) -> "subprocess.Popen[str]":
    command = [*near.enter, sys.executable, "-m", "benchmarks.trials.network.capture", str(folder / "capture")]
    process = subprocess.Popen([*command, *map(str, ports)], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None  # noqa: S101 - Popen made a pipe
    process.stdout.readline()
    return process


def _run_clients(
    row: Row, tasks: Sequence[ClientTask], near: Host, folder: Path, environment: dict[str, str]
) -> list[Client]:
    processes = []
    for task in tasks:
        task.write(folder / f"{task.name}.task")
        files = [str(folder / f"{task.name}.{what}") for what in ("task", "result")]
        command = [*near.enter, sys.executable, "-m", "benchmarks.trials.network.client", *files]
        processes.append(subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True))
    for process in processes:
        assert process.stdout is not None  # noqa: S101 - Popen made a pipe
        process.stdout.readline()
        if row.stopped_s:
            os.kill(process.pid, signal.SIGSTOP)
            time.sleep(row.stopped_s)
            os.kill(process.pid, signal.SIGCONT)
    for process in processes:
        process.communicate(timeout=_WAIT_S)
        if process.returncode:
            raise RuntimeError(f"the client of {row.name!r} failed")
    return [Client(**json.loads((folder / f"{task.name}.result").read_text())) for task in tasks]


def _judge(
    row: Row,
    clients: list[Client],
    truth: dict[str, TrueAnswer],
    captured: Captured | None,
    reader: Reader | None,
) -> Result:
    records = [record for client in clients for record in client.records]
    good = [record for record in records if record["error"] is None and record["stamp_source"] == "packet"]
    missed = len(records) - len(good)
    faults = [str(error) for error in {record["error"] for record in records} if error]
    if missed and not row.may_miss:
        faults.append(f"{missed} of {len(records)} answers have stamps that are not the ring's")
    drops = sum(client.drops or 0 for client in clients)
    if row.may_miss and not (drops and missed):
        faults.append(f"{drops} segments were dropped and {missed} answers are marked: the row shows nothing")
    off_us = [] if captured is None else differences_us(captured, good)
    expected = sum(len(record["chunk_ns"]) for record in good)
    if captured is not None and (not off_us or np.quantile(off_us, 0.999) > MAX_DIFFERENCE_US):
        faults.append("the stamps are off the capture's")
    if captured is not None and len(off_us) < MOST * expected:
        faults.append(f"only {len(off_us)} of {expected} chunks are in the capture")
    departures_us = [] if captured is None else departures_off_us(captured, good)
    if captured is not None and (not departures_us or np.quantile(departures_us, 0.99) > MAX_DIFFERENCE_US):
        faults.append("departures are off the capture's")
    late_us = _late_us(good, truth)
    local = row.place in (Place.LOOPBACK, Place.IPV6) and row.through is Through.NOTHING and not row.schedule.nagle
    if local and (late_us[0] < -1 or np.quantile(late_us, 0.99) > MAX_LATE_US):
        faults.append(f"from {late_us[0]:.1f} to {np.quantile(late_us, 0.99):.1f} us (99 %) behind the engine's log")
    itl, true_itl = _gaps_s(good), _true_gaps_s(good, truth)
    if local:
        faults += _differences(itl, true_itl)
    if reader is not None:
        faults += _reader_differences(itl, true_itl, reader)
    turnaround_s = np.quantile(_turnarounds_s(records, truth), (0.5, 0.9, 0.99))
    if row.turnaround and turnaround_s[1] > MAX_TURNAROUND_S + 2 * row.delay_s:
        faults.append(f"the next request came {turnaround_s[1] * 1000:.1f} ms (p90) behind the answer's end")
    faults += _other_faults(row, clients, good)
    rtt_s = [record["rtt_s"] for record in good if record["rtt_s"] is not None]
    cells = {
        "answers": f"{len(good)}/{len(records)}",
        "compared": f"{len(off_us):,}",
        "off capture p99.9/max, us": f"{np.quantile(off_us, 0.999):.1f}/{off_us[-1]:.1f}" if off_us else "",
        "behind log p50/p99/max, us": "/".join(f"{np.quantile(late_us, q):.0f}" for q in (0.5, 0.99, 1)),
        "ITL p50/p99/max, ms": _shown(itl),
        "true, or reader's": _shown(true_itl if reader is None else reader.itl_s),
        "next request p50/p90/p99, ms": "/".join(f"{each * 1000:.1f}" for each in turnaround_s),
        "rtt p50, ms": f"{np.median(rtt_s) * 1000:.3f}" if rtt_s else "",
        "again": str(sum(record["retransmissions"] or 0 for record in good)),
        "dropped": str(drops),
        "KiB/stream": f"{max(client.stream_kib for client in clients):.0f}",
    }
    return Result(row=row, cells=cells, faults=faults)


def _other_faults(row: Row, clients: list[Client], good: list[Record]) -> Iterator[str]:
    closed = sum(record[f"{side}_closed_windows"] or 0 for record in good for side in ("engine", "client"))
    if closed and not row.stopped_s:
        yield f"{closed} closed windows"
    said = {record["engine_writes"] for record in good}
    if row.nagle is True and "after_acknowledgement" not in said:
        yield "did not notice that the engine waits for acknowledgements"
    if row.nagle is not True and "after_acknowledgement" in said:
        yield "says that the engine waits for acknowledgements, which it does not"
    if row.loss and not sum(record["retransmissions"] or 0 for record in good):
        yield "nothing was sent again: the row shows nothing"
    if row.delay_s and (rtts := [record["rtt_s"] for record in good if record["rtt_s"] is not None]):
        median_s = float(np.median(rtts))
        if not 2 * row.delay_s <= median_s <= 2 * row.delay_s + 0.003:
            yield f"round trip {median_s * 1000:.1f} ms"
    if row.users > _MANY_STREAMS and clients[0].stream_kib > MAX_STREAM_KIB:
        yield f"{clients[0].stream_kib:.1f} KiB a stream"


def _late_us(records: list[Record], truth: dict[str, TrueAnswer]) -> Any:
    """Return how far each stamp is behind the engine's clock before the write, in order of size."""
    late = [
        np.array(record["chunk_ns"]) - truth[record["request_id"]].writes_ns
        for record in records
        if len(record["chunk_ns"]) == len(truth[record["request_id"]].writes_ns)
    ]
    return np.sort(np.concatenate(late)) / 1000 if late else np.zeros(1)


def _gaps_s(records: list[Record]) -> Any:
    return np.concatenate([np.diff(record["chunk_ns"]) for record in records]) / 1e9


def _true_gaps_s(records: list[Record], truth: dict[str, TrueAnswer]) -> Any:
    return np.concatenate([np.diff(truth[record["request_id"]].writes_ns) for record in records]) / 1e9


def _turnarounds_s(records: list[Record], truth: dict[str, TrueAnswer]) -> list[float]:
    """Return the time from the end of each answer to the arrival of its user's next request, by the engine's log."""
    done, times_s = {name: answer.done_ns for name, answer in truth.items()}, []
    for record in records:
        user, _, turn = record["request_id"].rpartition("-")
        before = done.get(f"{user}-{int(turn) - 1}")
        if before is not None and record["request_id"] in truth:
            times_s.append((truth[record["request_id"]].received_ns - before) / 1e9)
    return times_s


def _reader_differences(itl_s: Any, true_itl_s: Any, reader: Reader) -> Iterator[str]:
    """Compare two runs by what each has beyond its engine's writes: those are the machine's, and differ."""
    for quantile in (0.5, 0.99):
        ours, true, theirs, true_then = (
            float(np.quantile(each, quantile)) for each in (itl_s, true_itl_s, reader.itl_s, reader.true_itl_s)
        )
        if abs((ours - true) - (theirs - true_then)) > MAX_READER_CHANGE * theirs:
            yield f"ITL at {quantile:g} is {ours * 1000:.3f} ms, by a prompt reader {theirs * 1000:.3f}"


def _differences(measured: Any, true: Any) -> Iterator[str]:
    for quantile in (0.5, 0.99, 0.999):
        ours, theirs = float(np.quantile(measured, quantile)), float(np.quantile(true, quantile))
        if abs(ours - theirs) > MAX_ITL_CHANGE * theirs + MAX_LATE_US / 1e6:
            yield f"ITL at {quantile:g} is {ours * 1000:.3f} ms, by the engine's log {theirs * 1000:.3f}"


def _shown(gaps_s: Any) -> str:
    return "/".join(f"{np.quantile(gaps_s, q) * 1000:.3f}" for q in (0.5, 0.99, 1))
