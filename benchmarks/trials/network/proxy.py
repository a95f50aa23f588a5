"""A proxy that forwards http requests and opens tunnels; it prints its port."""

import asyncio
import re
from contextlib import suppress
from typing import Final

_LINE: Final = re.compile(rb"POST http://([\d.]+):(\d+)/")


async def _pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while piece := await reader.read(65_536):
            writer.write(_LINE.sub(b"POST /", piece))
            await writer.drain()
        writer.close()


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Carry one client's connection."""
    head = await reader.readuntil(b"\r\n\r\n")
    if head.startswith(b"CONNECT "):
        host, _, port = head.split(b" ")[1].rpartition(b":")
        writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        rest = b""
    else:
        match = _LINE.match(head)
        if match is None:
            raise ValueError(head)
        (host, port), rest = match.groups(), _LINE.sub(b"POST /", head)
    engine_reader, engine_writer = await asyncio.open_connection(host.decode(), int(port))
    engine_writer.write(rest)
    await asyncio.gather(_pipe(reader, engine_writer), _pipe(engine_reader, writer))


async def main() -> None:
    """Listen on a free port of loopback."""
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
