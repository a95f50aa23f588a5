"""TLS in memory, so that the encrypted bytes are read and stamped like any others."""

import ssl
from typing import Final

from llmload.client.settings import ClientSettings
from llmload.errors import ConfigError
from llmload.http_get import ssl_context

_RECORD_BYTES: Final = 16_384
"""The most plain text in a TLS record."""


class TlsLayer:
    """One TLS session between encrypted bytes of the network and plain HTTP; it never touches a socket."""

    __slots__ = ("_incoming", "_outgoing", "_session")

    def __init__(self, context: ssl.SSLContext, host: str) -> None:
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._session = context.wrap_bio(self._incoming, self._outgoing, server_hostname=host)

    def handshake(self) -> bool:
        """Continue the handshake with the bytes taken so far; return whether it is done. Raises `ssl.SSLError`."""
        try:
            self._session.do_handshake()
        except ssl.SSLWantReadError:
            return False
        return True

    def take(self, cipher: bytes) -> None:
        """Take bytes from the network; empty bytes mean the end of the connection."""
        if cipher:
            self._incoming.write(cipher)
        else:
            self._incoming.write_eof()

    def decrypt(self) -> bytes:
        """Return the plain text of all complete records, possibly empty; raises `EOFError` after the last."""
        plain: list[bytes] = []
        session, incoming = self._session, self._incoming
        try:
            while piece := session.read(_RECORD_BYTES):
                if not plain and not incoming.pending and not session.pending():
                    return piece  # nearly always: one record in a read, and nothing after it
                plain.append(piece)
        except ssl.SSLWantReadError:
            return b"".join(plain)
        except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
            pass
        if plain:
            return b"".join(plain)
        raise EOFError

    @property
    def has_output(self) -> bool:
        """Whether the session has bytes for the network, such as a key update."""
        return self._outgoing.pending > 0

    def encrypt(self, plain: bytes) -> bytes:
        """Return the plain text as records for the network, after the session's own output."""
        if plain:
            self._session.write(plain)
        return self._outgoing.read()


def tls_context(settings: ClientSettings) -> ssl.SSLContext:
    """Return the context for HTTPS endpoints; raises `ConfigError` if the CA file cannot be used."""
    try:
        context = ssl_context(settings.ca_file, verify=settings.verify_tls)
    except OSError as error:
        raise ConfigError(f"ca_file {settings.ca_file!r}: {error}") from None
    context.set_alpn_protocols(["http/1.1"])
    return context
