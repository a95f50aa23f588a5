"""
Pages and files from elsewhere: one HTTP request with a deadline and a limit, TLS contexts, Hugging Face hub files.

For requests beside the load, such as an engine's description of itself and its metrics. Prompts go through
`llmload.client`.
"""

import http.client
import io
import os
import socket
import ssl
import time
import urllib.request
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from http.client import HTTPMessage
from pathlib import Path
from typing import IO, Any, Final, Literal
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit

from llmload.access.address import Origin, origin_of
from llmload.errors import ConfigError

# Files from the Hugging Face hub, through the hub library: its cache, its tokens, its offline mode.

RepoType = Literal["model", "dataset"]
METADATA_TIMEOUT_S: Final = 5.0
"""How long the hub may take to say whether it has the file, where `HF_HUB_ETAG_TIMEOUT` does not set it."""
_PAGES: Final = {"model": "https://huggingface.co", "dataset": "https://huggingface.co/datasets"}


class NoSuchFileError(ConfigError):
    """The hub, or the cache that was filled from it, has the repository; the repository has no such file."""


def fetch(repository: str, filename: str, repo_type: RepoType) -> Path:
    """
    Return the local path of a repository's file, from the cache where it is there and the hub cannot be reached.

    Raises NoSuchFileError, and ConfigError for every other reason: no access, no network; each says what to do.
    """
    # Imported here: it takes 0.2 s, and few commands need it.
    from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    try:
        # First, because it does not retry: without it, a missing network takes 23 s to be reported.
        with suppress(EntryNotFoundError):  # raised below, where the cache notes it
            get_hf_file_metadata(hf_hub_url(repository, filename, repo_type=repo_type), timeout=_timeout_s())
        return Path(hf_hub_download(repository, filename, repo_type=repo_type))
    except Exception as error:  # noqa: BLE001 # its HTTP library's errors pass through, and that library changes
        reason = _reason(error, repository, filename, repo_type)
        try:
            return Path(hf_hub_download(repository, filename, repo_type=repo_type, local_files_only=True))
        except (LocalEntryNotFoundError, ValueError):
            # Not `from error`: its text may contain the token that was sent.
            missing = _is_missing(error, repository, filename, repo_type)
            raise (NoSuchFileError if missing else ConfigError)(reason) from None


def _is_missing(error: Exception, repository: str, filename: str, repo_type: RepoType) -> bool:
    from huggingface_hub import _CACHED_NO_EXIST, errors, try_to_load_from_cache

    if isinstance(error, errors.EntryNotFoundError):
        return not isinstance(error, errors.LocalEntryNotFoundError)
    if isinstance(error, errors.HFValidationError):
        return False
    return try_to_load_from_cache(repository, filename, repo_type=repo_type) is _CACHED_NO_EXIST


def _timeout_s() -> float:
    from huggingface_hub import constants

    return constants.HF_HUB_ETAG_TIMEOUT if os.environ.get("HF_HUB_ETAG_TIMEOUT") else METADATA_TIMEOUT_S


def _reason(error: Exception, repository: str, filename: str, repo_type: RepoType) -> str:
    """What went wrong and what to do; never the library's own text, which may contain addresses and headers."""
    from huggingface_hub import errors

    if isinstance(error, errors.GatedRepoError):
        page = f"{_PAGES[repo_type]}/{repository}"
        return f"access is gated: accept its terms on {page}, then set HF_TOKEN to a token of the same account"
    if isinstance(error, errors.RepositoryNotFoundError):
        return (
            "there is none of that name, or it is private: check the name, or set HF_TOKEN to a token that may read it"
        )
    if isinstance(error, errors.EntryNotFoundError):
        return f"it has no file '{filename}'"
    if isinstance(error, errors.HFValidationError):
        return "not a name of the form `owner/name`"
    if isinstance(error, errors.HfHubHTTPError):
        return _status_reason(error.response.status_code)
    if isinstance(error, errors.OfflineModeIsEnabled):
        return f"HF_HUB_OFFLINE is set and '{filename}' is not in the cache: unset it, or name a local copy"
    why = type(error).__name__
    return f"the hub cannot be reached ({why}) and '{filename}' is not in the cache: name a local copy"


def _status_reason(status: int) -> str:
    if status == 401:
        return "the hub refused the token (401): set HF_TOKEN to a valid one, or unset it"
    return f"the hub answered with status {status}: try again later, or name a local copy"


class AnswerTooLongError(ValueError):
    """The answer has more bytes than the caller allows."""


@dataclass(frozen=True, slots=True)
class HttpAnswer:
    """A successful answer: its status (200 to 299) and its whole body."""

    status: int
    body: bytes


def http_get(
    url: str,
    *,
    timeout_s: float,
    max_bytes: int,
    headers: Mapping[str, str] | None = None,
    tls: ssl.SSLContext | None = None,
    posted: bytes | None = None,
) -> HttpAnswer:
    """
    Return the answer to a GET of an http or https URL, or to a POST of a body, through the environment's proxy if any.

    Redirects within the origin (scheme, host, port) are followed; one that leaves it is a `RedirectError`. Raises what
    `urllib.request.urlopen` raises: `HTTPError` (closed) for a status of 400 or more, `URLError` or `TimeoutError`
    if nothing answers within `timeout_s`, `http.client.HTTPException` for an answer that is not HTTP; and
    `AnswerTooLongError`.
    """
    deadline_s = time.monotonic() + timeout_s
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        _DeadlineHandler(deadline_s, tls),
        _RedirectHandler(),
        urllib.request.HTTPErrorProcessor(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.UnknownHandler(),
    ):
        opener.add_handler(handler)
    request = urllib.request.Request(url, data=posted, headers=dict(headers or {}))  # noqa: S310 - the opener knows http and https only
    try:
        with opener.open(request, timeout=timeout_s) as answer:
            body = answer.read(max_bytes + 1)
            status = answer.status
    except HTTPError as error:
        error.close()
        raise
    except OverflowError as error:  # of a proxy's port
        raise URLError(str(error)) from None
    if len(body) > max_bytes:
        raise AnswerTooLongError(f"more than {max_bytes} bytes")
    return HttpAnswer(status, body)


def ssl_context(ca_file: str | None, *, verify: bool) -> ssl.SSLContext:
    """
    Return how servers are to prove who they are: by the system's authorities or a CA file, or not at all.

    Raises `OSError` for a CA file that cannot be used.
    """
    context = ssl.create_default_context(cafile=ca_file)
    if not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


class RedirectError(HTTPError):
    """The answer is a redirect to another origin, which is not followed; `target` is its URL, without a query."""

    def __init__(self, url: str, code: int, headers: HTTPMessage, target: str) -> None:
        parts = urlsplit(target)
        self.target = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
        super().__init__(url, code, f"a redirect to {self.target}, which is not followed", headers, io.BytesIO())


class _RedirectHandler(urllib.request.HTTPRedirectHandler):
    """Follows redirects within the origin: what is sent, a key above all, is for nobody else."""

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> urllib.request.Request | None:
        fp.close()  # the base class would read a body of any size
        if _origin_or_none(newurl) != origin_of(req.full_url):
            raise RedirectError(req.full_url, code, headers, newurl)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _origin_or_none(url: str) -> Origin | None:
    try:
        return origin_of(url)
    except ValueError:
        return None


class _DeadlineHandler(urllib.request.HTTPHandler, urllib.request.HTTPSHandler):
    """Opens http and https URLs; connecting and reading end at the deadline."""

    def __init__(self, deadline_s: float, tls: ssl.SSLContext | None) -> None:
        urllib.request.AbstractHTTPHandler.__init__(self)  # HTTPSHandler's would load the system's authorities
        self._deadline_s, self._tls = deadline_s, tls

    def http_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(self._http, req)

    def https_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(self._https, req)

    def _http(self, host: str, **_: Any) -> http.client.HTTPConnection:
        return self._limited(http.client.HTTPConnection(host, timeout=_left_s(self._deadline_s)))

    def _https(self, host: str, **_: Any) -> http.client.HTTPConnection:
        return self._limited(http.client.HTTPSConnection(host, timeout=_left_s(self._deadline_s), context=self._tls))

    def _limited(self, connection: http.client.HTTPConnection) -> http.client.HTTPConnection:
        connection.response_class = partial(_DeadlineResponse, self._deadline_s)  # type: ignore[assignment] # only called
        connection._create_connection = partial(_connected, self._deadline_s)  # type: ignore[attr-defined]
        return connection


def _connected(deadline_s: float, address: tuple[str, int], *_: Any) -> socket.socket:
    """Connect to the first address of a name that answers until the deadline: the library gives each the whole time."""
    fault = OSError("the name has no address")
    for family, kind, protocol, _name, place in socket.getaddrinfo(*address, type=socket.SOCK_STREAM):
        made = socket.socket(family, kind, protocol)
        try:
            made.settimeout(_left_s(deadline_s))
            made.connect(place)
        except OSError as error:
            made.close()
            fault = error
        else:
            return made
    raise fault


class _DeadlineResponse(http.client.HTTPResponse):
    """A response whose head and body are read until the deadline."""

    def __init__(self, deadline_s: float, sock: Any, *arguments: Any, **named: Any) -> None:
        super().__init__(sock, *arguments, **named)
        self.fp.close()
        self.fp = io.BufferedReader(_DeadlineReader(sock, deadline_s))


class _DeadlineReader(io.RawIOBase):
    """Reads a socket until the deadline: a socket's own time-out begins again with every byte that arrives."""

    def __init__(self, sock: Any, deadline_s: float) -> None:
        self._sock = sock
        self._reader = sock.makefile("rb", buffering=0)
        self._deadline_s = deadline_s

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        self._sock.settimeout(_left_s(self._deadline_s))
        read: int | None = self._reader.readinto(buffer)
        return read

    def close(self) -> None:
        self._reader.close()
        super().close()


def _left_s(deadline_s: float) -> float:
    left_s = deadline_s - time.monotonic()
    if left_s <= 0:
        raise TimeoutError("timed out")
    return left_s
