"""TLS over memory, so that its cipher text is read, and stamped, like any other bytes."""

import ssl
from typing import Final

from llmload.client.settings import ClientSettings
from llmload.errors import ConfigError
from llmload.http_get import ssl_context

_RECORD_BYTES: Final = 16_384
"""The most text that a record of TLS holds."""


class TlsLayer:
    """One TLS session between bytes of the network and bytes of HTTP; it never touches a socket."""

    __slots__ = ("_incoming", "_outgoing", "_session")

    def __init__(self, context: ssl.SSLContext, host: str) -> None:
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._session = context.wrap_bio(self._incoming, self._outgoing, server_hostname=host)

    def handshake(self) -> bool:
        """Take the handshake as far as the bytes go; return whether it is done. Raises `ssl.SSLError`."""
        try:
            self._session.do_handshake()
        except ssl.SSLWantReadError:
            return False
        return True

    def take(self, cipher: bytes) -> None:
        """Take bytes from the network; none means that it ended."""
        if cipher:
            self._incoming.write(cipher)
        else:
            self._incoming.write_eof()

    def decrypt(self) -> bytes:
        """Return the text of every whole record taken, possibly nothing; raises `EOFError` after the last."""
        plain: list[bytes] = []
        session, incoming = self._session, self._incoming
        try:
            while piece := session.read(_RECORD_BYTES):
                if not plain and not incoming.pending and not session.pending():
                    return piece  # nearly always: a record a read, and nothing behind it
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
        """Whether the session itself has something for the network, such as new keys."""
        return self._outgoing.pending > 0

    def encrypt(self, plain: bytes) -> bytes:
        """Return the text as records for the network, after whatever the session has to say itself."""
        if plain:
            self._session.write(plain)
        return self._outgoing.read()


def tls_context(settings: ClientSettings) -> ssl.SSLContext:
    """Return how servers prove who they are; raises `ConfigError` where the CA file cannot be used."""
    try:
        context = ssl_context(settings.ca_file, verify=settings.verify_tls)
    except OSError as error:
        raise ConfigError(f"ca_file {settings.ca_file!r}: {error}") from None
    context.set_alpn_protocols(["http/1.1"])
    return context
