"""Addresses as people paste them: those that work, and what is said of the others; no secret is shown."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmload.access.address import checked_base_url, origin_of, root_of, shown, url_parts
from llmload.access.secrecy import UnshownValueError
from llmload.client.settings import Api
from llmload.client.transport import endpoint_of

VERSION = "?api-version=2024-06-01"


@pytest.mark.parametrize(
    ("url", "used"),
    [
        ("http://127.0.0.1:8000", None),
        ("https://my_host.example.com./v1?version=2", None),
        ("http://[::1]:80/a%20b", None),
        ("http://127.1", None),
        ("http://h", None),
        ("http://h:/v1/", None),
        ("HTTP://H:80/v1", "http://H:80/v1"),
        ("Https://h", "https://h"),
        (f"https://h/openai/deployments/d{VERSION}", None),
        ("http://h/v1/chat/completions/", None),
        ("http://h/v1/@cf/meta", None),
    ],
)
def test_an_address_that_can_be_used(url: str, used: str | None) -> None:
    assert checked_base_url(url) == (used or url)


@pytest.mark.parametrize(
    ("url", "mistake"),
    [
        ("http://h:99999", "its port is not a number from 1 to 65535"),
        ("http://h:0", "its port is not a number"),
        ("http://h:8O00", "its port is not a number"),
        ("http://h:-1", "its port is not a number"),
        ("http://h:80:80", "its port is not a number"),
        ("http://h:\uff18\uff10", "its port is not a number"),
        ("http://h/my path", "it contains ' ', U+0020 (space), which no URL can: write %20 in its place"),
        (
            "http://h/mod\u00e8le",
            "U+00E8 (latin small letter e with grave), which no URL can: write %C3%A8 in its place",
        ),
        ("http://h/a\tb", "U+0009, which no URL can: remove it"),
        ("http://h\r\n:80", "U+000D, which no URL can: remove it"),
        ("http://h/\udc80", "U+DC80"),
        ("http://h/ ", "white space"),
        (" http://h", "white space"),
        ("http://h\n", "white space"),
        ("http://b\u00fccher.example", "write xn--bcher-kva.example"),
        ("http://my\u2013host", "its host has U+2013 (en dash) in it"),
        ("http://h\u200b:80", "U+200B (zero width space), which no URL can: remove it"),
        ("http://h\u2100", "its host cannot be read"),
        ("http://a..b", "its host 'a..b' is not a name or IP address"),
        ("http://{host}:8000", "is not a name or IP address"),
        ("http://my host", "is not a name or IP address"),
        ("http://300.1.1.1", "is not an IPv4 address"),
        ("http://127.0.0.1.5", "is not an IPv4 address"),
        ("http://[::zz]", "its host cannot be read"),
        ("http://[::1", "its host cannot be read"),
        ("http://::1:8000", "which has brackets in a URL"),
        ("::1", "write http://[::1]"),
        ("http://[fe80::1%25eth0]:8000", "its IPv6 address has a zone (%eth0)"),
        ("http://[fe80::1%eth0]:8000", "its IPv6 address has a zone (%eth0)"),
        ("http://h/#top", "fragment"),
        ("http://h#", "fragment"),
        ("", "it is empty"),
        ("http://", "it has no host: write it as http://host:port"),
        ("https:///v1", "it has no host"),
        ("http://:8000", "it has no host"),
        ("http:/h", "it lacks :// after http"),
        ("http:h", "it lacks :// after http"),
        ("http//h", "it lacks :// after http"),
        ("HTTPS:", "it lacks :// after https"),
        ("http:\\\\h", "it has a backslash"),
        ("http://http://h", "it has http:// after http://"),
        ("https://http//h", "it has http// after https://"),
        ("'http://h'", "quotation mark"),
        ("<http://h>", "bracket"),
        ("ftp://h", "its scheme is ftp: write it as http://host:port"),
        ("htps://h", "its scheme is htps"),
        ("unix:///run/engine.sock", "a Unix socket's"),
        ("http+unix://%2Frun%2Fengine.sock", "a Unix socket's"),
        ("/run/engine.sock", "a Unix socket's or a file's"),
        ("ws://h", "a WebSocket's: write http:// in place of ws://"),
        ("wss://h", "a WebSocket's: write https:// in place of wss://"),
        ("localhost:8000/v1", "write http://localhost:8000/v1"),
        ("//10.0.0.7:8000", "write http://10.0.0.7:8000"),
        ("[::1]:8000", "write http://[::1]:8000"),
        ("vllm", "write http://vllm"),
        ("api.example.com/v1", "write https://api.example.com/v1 (or http://"),
        ("http://h/v1/completions", "the address of another request than llmload sends: remove /completions"),
        ("http://h/v1/models/", "remove /models"),
    ],
)
def test_an_address_that_cannot_be_used_names_its_mistake(url: str, mistake: str) -> None:
    with pytest.raises(ValueError, match=re.escape(mistake)):
        checked_base_url(url)


@pytest.mark.parametrize(
    "url",
    [
        "http://me:hunter2@h:99999",
        "me:hunter2@h:8000",
        "//me:hunter2@h",
        "http://hunter2@h",
        "http:/me:hunter2@h",
        "http//me:hunter2@h",
        "http://me:hun/hunter2@h",
        "http://h?key=hunter2",
        "http://h/v1?a=b&subscription-key=hunter2",
        "http://h:0?nothing=hunter2",
    ],
)
def test_a_password_or_key_in_an_address_is_not_shown(url: str) -> None:
    with pytest.raises(UnshownValueError) as refusal:
        url_parts(url)

    assert "hunter2" not in str(refusal.value)
    assert "hunter2" not in shown(url) or "nothing" in url


@pytest.mark.parametrize(
    ("url", "api", "target", "root"),
    [
        ("http://h", "openai-chat", "/v1/chat/completions", "http://h"),
        ("http://h/v1/", "openai-chat", "/v1/chat/completions", "http://h"),
        ("http://h/v1/chat/completions", "openai-chat", "/v1/chat/completions", "http://h"),
        ("http://h/chat/completions/", "openai-chat", "/chat/completions", "http://h"),
        ("http://h/api/v1", "openai-chat", "/api/v1/chat/completions", "http://h/api"),
        (
            f"http://h/openai/deployments/d{VERSION}",
            "openai-chat",
            f"/openai/deployments/d/chat/completions{VERSION}",
            "",
        ),
        (f"http://h/d/chat/completions{VERSION}", "openai-chat", f"/d/chat/completions{VERSION}", "http://h/d"),
        (f"http://h/openai/v1/{VERSION}", "openai-chat", f"/openai/v1/chat/completions{VERSION}", "http://h/openai"),
        ("http://h/generate_stream", "tgi-generate", "/generate_stream", "http://h"),
        ("http://h/v1", "tgi-generate", "/generate_stream", "http://h"),
    ],
)
def test_what_is_asked_below_an_address(url: str, api: Api, target: str, root: str) -> None:
    path = "/chat/completions" if api == "openai-chat" else "/generate_stream"

    assert endpoint_of(url, api, path).target == target
    assert root_of(url) == (root or "http://h/openai/deployments/d", VERSION if VERSION in url else "")


def test_an_origin_has_no_case_and_a_port() -> None:
    assert origin_of("HTTPS://H/v1") == ("https", "h", 443)


PIECES = ("http:", "https:", "HTTP:", "//", "/", "localhost", "h.example", ":8000", ":0", "[::1]", "[", "]", "%25eth0")
ODD = ("?", "a=b", "key=", "#", "@", "me:", " ", "\t", "\x1b", "\u2013", "\u00fc", "\udc80", "\\", "v1", "unix:")


@given(st.lists(st.sampled_from(PIECES + ODD), max_size=9).map("".join) | st.text(max_size=20))
@settings(max_examples=300)
def test_any_text_is_an_address_or_a_mistake_in_one_line(text: str) -> None:
    used, refusal = text, ""
    try:
        used = checked_base_url(text)
    except ValueError as error:
        refusal = str(error)

    assert refusal.isprintable()
    if not refusal:
        assert checked_base_url(used) == used
        assert endpoint_of(used, "openai-chat", "/chat/completions").target.isascii()
        assert origin_of(used)[0] in {"http", "https"}
