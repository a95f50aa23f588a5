"""
Fuzz the code that reads engines' answers (coverage-guided): however a stream is cut, the result is the same.

Three readings of the same bytes are compared: whole, cut anywhere, and by the fast path, which recognizes an event by
its frame. None may raise, and none may count differently.
"""

import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FunctionType
from typing import Any, Final

import click
import httptools

from benchmarks import ROOT
from llmload.client import answer, api, chunk_fields, errors, http_response, json_text, sse, token_counts
from llmload.client.answer import StreamState
from llmload.client.api import ChatStream, TgiStream
from llmload.client.http_response import Response
from llmload.client.settings import FOREVER_NS
from llmload.client.sse import Decoder, EventDecoder

SAMPLES: Final = ROOT / "tests" / "client" / "streams"
CUTS: Final = 8
"""How many bytes of an input say where to cut the rest."""
HEAD: Final = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


def pieces_of(stream: bytes, cuts: Sequence[int]) -> list[bytes]:
    """Return the stream in pieces, cut after every event and at each of `cuts`, in 255ths of its length."""
    ends = {at + 2 for at in range(len(stream)) if stream.startswith(b"\n\n", at)}
    ends |= {cut * len(stream) // 255 for cut in cuts}
    inner = sorted(ends - {0, len(stream)})
    return [stream[start:end] for start, end in zip([0, *inner], [*inner, len(stream)], strict=True)]


def outcome_of(answer: StreamState, *, moments: bool) -> tuple[Any, ...]:
    """Return everything that was read of an answer; its stamps only where they can be compared."""
    stamps = answer.chunk_ns.tolist() if moments else len(answer.chunk_ns)
    error = None if answer.error is None else (answer.error.type, answer.error.message)
    failure = answer.failure(None, ended=True)
    return stamps, answer.counts(), answer.finish_reason, answer.finished, answer.saw_done, error, failure


def decoded(answer: StreamState, pieces: Sequence[bytes]) -> StreamState:
    """Read the pieces event by event."""
    decoder = EventDecoder()
    for moment, piece in enumerate(pieces):
        for kind, data in decoder.feed(piece):
            answer.take_event(moment, kind, data)
    for kind, data in decoder.finish():
        answer.take_event(0, kind, data)
    return answer


def by_frames(answer: StreamState, pieces: Sequence[bytes]) -> StreamState:
    """Read the pieces as the client does, each as one HTTP chunk."""
    response = Response()
    decoder = Decoder(response, answer)
    response.feed(HEAD, 0)
    for moment, piece in enumerate(pieces):
        if piece:
            response.feed(b"%x\r\n%s\r\n" % (len(piece), piece), moment)
    while response.raw or response.body:
        decoder.advance(FOREVER_NS)
    decoder.end()
    return answer


def check_events(stream: bytes, cuts: Sequence[int]) -> None:
    """Read a body of events in three ways; AssertionError where they differ."""
    pieces = pieces_of(stream, cuts)
    kinds: tuple[Callable[[], StreamState], ...] = (ChatStream, TgiStream)
    for kind in kinds:
        cut = decoded(kind(), pieces)
        if outcome_of(cut, moments=False) != outcome_of(decoded(kind(), [stream]), moments=False):
            raise AssertionError("a stream gives another result when it is cut")
        if outcome_of(cut, moments=True) != outcome_of(by_frames(kind(), pieces), moments=True):
            raise AssertionError("a stream gives another result on the fast path")


def read_http(pieces: Sequence[bytes]) -> tuple[Any, ...]:
    """Return what was read of a response in pieces: status, whether it is complete, body, whether it is not HTTP."""
    response = Response()
    broken = False
    try:
        for moment, piece in enumerate(pieces, start=1):
            response.feed(piece, moment)
            while response.raw:
                response.parse()
            if response.complete:
                break
    except httptools.HttpParserError:
        broken = True
    return response.status, response.complete, b"".join(response.body), broken


def check_http(data: bytes, cuts: Sequence[int]) -> None:
    """Read a chunked response in one piece, cut, and byte by byte; AssertionError where they differ."""
    stream = HEAD + data
    whole = read_http([stream])
    if read_http(pieces_of(stream, cuts)) != whole:
        raise AssertionError("a response gives another result when it is cut")
    if read_http([stream[at : at + 1] for at in range(len(stream))]) != whole:
        raise AssertionError("a response gives another result byte by byte")


def check(data: bytes) -> None:
    """Check one input: a byte that selects events or HTTP, the cuts, and the stream."""
    which, cuts, stream = data[:1], data[1 : 1 + CUTS], data[1 + CUTS :]
    if which and which[0] % 2:
        check_http(stream, cuts)
    else:
        check_events(stream, cuts)


def write_samples(folder: Path) -> None:
    """Write the initial inputs: streams of real engines, as events and as chunks."""
    for sample in sorted(SAMPLES.glob("*.sse")):
        stream = sample.read_bytes()
        stream = stream.partition(b"\r\n\r\n")[2] if stream.startswith(b"HTTP/") else stream
        cuts = bytes(range(0, 255, 255 // CUTS))[:CUTS]
        chunks = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces_of(stream, ()) if piece)
        (folder / f"{sample.stem}-events").write_bytes(b"\0" + cuts + stream)
        (folder / f"{sample.stem}-http").write_bytes(b"\1" + cuts + chunks + b"0\r\n\r\n")


@click.command()
@click.option("--seconds", type=click.IntRange(min=1), default=60, show_default=True, help="How long to fuzz.")
def main(seconds: int) -> None:
    """Fuzz with atheris; exit code 0 when nothing was found, else the failing input is shown."""
    with tempfile.TemporaryDirectory() as folder:
        write_samples(Path(folder))
        flags = [
            f"-max_total_time={seconds}",
            "-max_len=8192",
            "-print_final_stats=1",
            f"-artifact_prefix={tempfile.gettempdir()}/llmload-fuzz-",
        ]
        command = [sys.executable, "-c", "from benchmarks.trials.fuzz import fuzz; fuzz()", *flags, folder]
        sys.exit(subprocess.run(command, check=False).returncode)


def fuzz() -> None:
    """Run atheris with the flags on the command line; it ends the process."""
    import atheris  # type: ignore[import-untyped,import-not-found,unused-ignore]  # not built for every Python

    for module in (answer, api, chunk_fields, errors, http_response, json_text, sse, token_counts):
        for thing in vars(module).values():
            for function in vars(thing).values() if isinstance(thing, type) else [thing]:
                if isinstance(function, FunctionType) and function.__module__.startswith("llmload.client"):
                    atheris.instrument_func(function)
    atheris.Setup(sys.argv, check)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
