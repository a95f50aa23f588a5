"""Chat users whose process logs the size of each report that it sends to the master."""

from locust import events
from locust.env import Environment

from pathlib import Path
from typing import Any

import msgpack

from llmload.loadgen.messages import KEY
from llmload.loadgen.users import ChatUser, install

install(events)


class Chat(ChatUser):
    """Sends the scenario's prompts."""


def note_size(client_id: str, data: dict[str, Any], **_: object) -> None:
    """Append the size of a report, and of llmload's part of it, as Locust packs them."""
    whole = msgpack.dumps(data)
    own = msgpack.dumps(data.get(KEY))
    with Path(f"report-bytes.{client_id}.txt").open("a", encoding="ascii") as sizes:
        sizes.write(f"{len(whole)} {len(own)}\n")


def watch(environment: Environment, **_: object) -> None:
    """Listen after Locust and the run, when both have added their parts to a report."""
    environment.events.report_to_master.add_listener(note_size)


events.init.add_listener(watch)
