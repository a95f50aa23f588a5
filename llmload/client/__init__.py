"""
A prompt in, a `RequestRecord` out; time stamps are taken at the socket.

The life of a request, in the order of the files:

    settings        where and what to send, headers, TLS context, time limits; which models an engine serves
    client          ChatClient.complete(): attempts, pauses between them, and always one record;
                    WireClient: the request's bytes, a connection from the pool, HttpRequest.run()
    http_request    one request on one connection; its greenlet waits here until the answer ended
    transport       the URL and the proxy; dial() opens a connection, Pool keeps it alive
    connection      reads with the kernel's stamp of arrival, on the monotonic clock; TLS in memory
    reactor         polls all sockets of the process, appends reads, decodes them later in slices
    http_response   HTTP/1.1: status, headers, pieces of the body with their stamps
    sse             the body: events, one JSON object, or the text of an error
    answer          what the events say: stamps of chunks with text, finish_reason, why it failed
    api             the same by API; chunk_fields: where text is; token_counts: usage; json_text: JSON that is none
    errors          every failure as a RequestError

`sdk` is the other client, on the `openai` library; `sdk_answer` reads answers for it by the same rules.
"""

from typing import Literal

from llmload.client.client import ChatClient
from llmload.client.settings import ClientSettings
from llmload.extras import need

ClientKind = Literal["wire", "openai"]


def make_client(settings: ClientSettings, kind: ClientKind = "wire") -> ChatClient:
    """
    Return a client of this kind: `wire` stamps at the socket, `openai` is the SDK that applications use.

    It does not connect yet. Raises `ConfigError` for settings that this kind does not support, and without
    the extra that `openai` needs.
    """
    if kind == "wire":
        from llmload.client.client import WireClient

        return WireClient(settings)
    need("openai", "client.kind = 'openai'")
    from llmload.client.sdk import SdkClient  # the SDK is slow to import

    return SdkClient(settings)
