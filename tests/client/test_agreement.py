"""Both clients make the same of any mixture of what engines have sent."""

import random
from collections.abc import Callable
from typing import Any

import pytest

from llmload.client.settings import ClientSettings
from tests.client.engine_streams import BYTES, COUNTS, ERRORS, FINISHED, TEXT, TEXTLESS, Case, facts
from tests.client.scripted_server import EVENTS_HEAD, ScriptedServer, chunked

_END = b"0\r\n\r\n"


def body_of(case: Case) -> bytes:
    """Return the body of a chunked answer."""
    body, rest = b"", case.sent.removeprefix(EVENTS_HEAD)
    while rest != _END:
        size, _, rest = rest.partition(b"\r\n")
        body += rest[: int(size, 16)]
        rest = rest[int(size, 16) + 2 :]
    return body


STREAMS = [
    body_of(case)
    for kind in (FINISHED, ERRORS, COUNTS, TEXT, TEXTLESS, BYTES)
    for case in kind.values()
    if case.sent.startswith(EVENTS_HEAD)
]


@pytest.mark.parametrize("seed", range(40))
def test_both_clients_agree_on_any_mixture(
    seed: int, serve: Callable[..., ScriptedServer], patched: Callable[..., Any]
) -> None:
    dice = random.Random(seed)  # noqa: S311 - no secret
    events = [each + b"\n\n" for stream in dice.sample(STREAMS, 4) for each in stream.split(b"\n\n")[:6]]
    dice.shuffle(events)
    body = b"".join(events)
    cuts = sorted(dice.sample(range(1, len(body)), min(12, len(body) - 1)))
    pieces = [body[start:end] for start, end in zip([0, *cuts], [*cuts, len(body)], strict=True)]
    server = serve(["read", EVENTS_HEAD, *map(_chunk, pieces), _END])
    settings = ClientSettings(base_urls=(server.url,), model="m")

    [by_wire] = patched("complete", settings, "wire")
    [by_sdk] = patched("complete", settings, "openai")

    assert facts(by_sdk) == facts(by_wire)


def _chunk(piece: bytes) -> bytes:
    return chunked(piece).removesuffix(_END)
