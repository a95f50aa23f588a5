"""
The client of a row: a closed loop of llmload's own client in this process.

`python -m benchmarks.trials.network.client TASK.json RESULT.json` prints a line once its users have started.
"""

from gevent import monkey

if __name__ == "__main__":
    monkey.patch_all()

import dataclasses
import json
import os
import resource
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import gevent

from llmload.client import make_client
from llmload.client.packet_ring import RING_BYTES, PacketRing
from llmload.client.reactor import current_reactor
from llmload.client.settings import ClientSettings, Stamps
from llmload.prompts.conversation import Prompt, as_message
from llmload.record import RequestRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientTask:
    """What a client has to do."""

    base_urls: tuple[str, ...]
    users: int
    turns: int
    stamps: Stamps = "packet"
    ca_file: str | None = None
    ramp_s: float = 0.5
    ring_bytes: int = RING_BYTES
    name: str = "a"

    def write(self, file: Path) -> None:
        """Write it down for a process."""
        file.write_text(json.dumps(dataclasses.asdict(self)))

    @classmethod
    def read(cls, file: Path) -> Self:
        """Return what was written."""
        task = json.loads(file.read_text())
        return cls(**task | {"base_urls": tuple(task["base_urls"])})


def main(task: ClientTask) -> dict[str, Any]:
    """Do the task, and return the records and what they cost."""
    setattr(PacketRing.__init__, "__defaults__", (task.ring_bytes,))  # noqa: B010 - there is no such setting
    settings = ClientSettings(base_urls=task.base_urls, model="truth", stamps=task.stamps, ca_file=task.ca_file)
    client = make_client(settings)
    prompt = Prompt("1", (as_message("user", "Say hello."),))
    client.prepare(prompt)
    tap = current_reactor(task.stamps).tap

    def user(number: int) -> list[RequestRecord]:
        gevent.sleep(task.ramp_s * number / task.users)
        return [client.complete(prompt, request_id=f"{task.name}-{number}-{turn}") for turn in range(task.turns)]

    before_kib = resident_kib()
    users = [gevent.spawn(user, number) for number in range(task.users)]
    gevent.sleep(task.ramp_s)
    print("started", flush=True)
    gevent.sleep(0.2)
    while_kib = resident_kib()
    gevent.joinall(users, raise_error=True)
    usage = resource.getrusage(resource.RUSAGE_SELF)
    result = {
        "records": [as_json(record) for each in users for record in each.get()],
        "drops": None if tap is None else tap.count_drops(),
        "cpu_s": usage.ru_utime + usage.ru_stime,
        "stream_kib": (while_kib - before_kib) / task.users,
    }
    client.close()
    return result


def resident_kib() -> float:
    """Return the memory of this process that is in use now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE") / 1024


def as_json(record: RequestRecord) -> dict[str, Any]:
    """Return a record as JSON has it."""
    kept: tuple[str, ...] = ("request_id", "started_ns", "sent_ns", "wire_sent_ns", "done_ns", "rtt_s")
    kept += ("retransmissions", "engine_closed_windows", "client_closed_windows", "reset_by", "engine_writes")
    return {name: getattr(record, name) for name in kept} | {
        "chunk_ns": record.chunk_ns.tolist(),
        "stamp_source": str(record.stamp_source),
        "error": None if record.error is None else f"{record.error.type}: {record.error.message}",
        "same_segment": record.same_segment_chunks,
        "coalesced": record.coalesced_chunks,
    }


if __name__ == "__main__":
    task_file, result_file = map(Path, sys.argv[1:])
    result_file.write_text(json.dumps(main(ClientTask.read(task_file))))
