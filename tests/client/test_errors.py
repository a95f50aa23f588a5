"""What a failing answer says, as one line: the engine's words and nothing that is a secret or moves a terminal."""

import errno
from base64 import b64encode, urlsafe_b64encode
from urllib.parse import quote

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from llmload.client.errors import MESSAGE_CHARS, from_connect_error, from_status, request_error, without_secrets
from llmload.client.settings import ClientSettings
from llmload.record import ErrorType

KEY = "sk-proj-Zq81mN4rT7vX2bLw"
PAGE = b"""<!DOCTYPE html>\r\n<html><head>
<style>h1 {color: red}</style><title>502 Bad&nbsp;Gateway</title></head><body><center><h1>no</h1></body></html>"""


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b'{"error": {"message": "too long", "type": "BadRequest", "code": 400}}', "HTTP 500: too long"),
        (b'{"object": "error", "message": "no such model"}', "HTTP 500: no such model"),
        (b'{"detail": "Model not loaded"}', "HTTP 500: Model not loaded"),
        (
            b'{"detail": [{"loc": ["body"], "msg": "needed"}, {"msg": "too big"}]}',
            "HTTP 500: needed; too big",
        ),
        (b'{"error": "Model is overloaded", "error_type": "overloaded"}', "HTTP 500: Model is overloaded"),
        (b'"as a string"', "HTTP 500: as a string"),
        (b"plain\n text \n", "HTTP 500: plain text"),
        (PAGE, "HTTP 500: 502 Bad Gateway"),
        (b"<html><body>sorry, <b>later</b></body></html>", "HTTP 500: sorry, later"),
        (b"<html><title> </title><h1>Busy &amp; tired</h1>", "HTTP 500: Busy & tired"),
        (b"<|end|> is no token of this model", "HTTP 500: <|end|> is no token of this model"),
        (b'{"error": "<html><title>Gateway Time-out</title></html>"}', "HTTP 500: Gateway Time-out"),
        (b"", "HTTP 500"),
        (b"\xff\xfe", "HTTP 500: \ufffd\ufffd"),
    ],
)
def test_the_message_is_what_the_body_says(body: bytes, message: str) -> None:
    assert from_status(500, body, None).message == message


@given(st.text() | st.text(alphabet="\x1b\x9b[]0;31mK\x07\\ab\u202e\ud800\n"))
def test_a_message_is_one_line_that_moves_no_terminal(text: str) -> None:
    message = request_error(ErrorType.ENGINE_ERROR, text).message

    assert message.isprintable()
    assert len(message) <= MESSAGE_CHARS
    assert message == " ".join(message.split())


def test_where_local_ports_are_used_up_the_message_says_so() -> None:
    error = from_connect_error(OSError(errno.EADDRNOTAVAIL, "Cannot assign requested address"), "10.0.0.7:8000")

    assert error.type is ErrorType.CONNECT_FAILED
    assert error.message == "10.0.0.7:8000: this host has no free local port, or no address to send from"


def test_colours_and_titles_leave_nothing_behind() -> None:
    text = "\x1b[1;31mERROR\x1b[0m \x1b]0;owned\x07in \x9b2Jworker\x00"

    assert request_error(ErrorType.ENGINE_ERROR, text).message == "ERROR in worker"


def shown(text: str, *secrets: str) -> str:
    return without_secrets(request_error(ErrorType.HTTP_CLIENT_ERROR, text), secrets).message


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (f"wrong key: {KEY}.", "wrong key: ***."),
        (f"twice {KEY}{KEY}", "twice ******"),
        (f"its beginning {KEY[:12]} only", "its beginning *** only"),
        (f"masked {KEY[:7]}********{KEY[-4:]}. See", "masked ***. See"),
        (f"masked {KEY[:7]}...{KEY[-4:]}", "masked ***"),
        (f"masked {KEY[:5]}\u2022\u2022\u2022 here", "masked *** here"),
        (f"cut within it: {KEY[:6]}", "cut within it: ***"),
        ("a key begins with sk-", "a key begins with sk-"),
        ("sk-project is another word", "sk-project is another word"),
    ],
)
def test_a_key_is_hidden_where_it_is_quoted_whole_in_part_or_masked(text: str, message: str) -> None:
    assert shown(text, KEY) == message


texts = st.text(alphabet="ab-. ", max_size=20)


@given(st.text(alphabet="ab-", min_size=4, max_size=20), st.lists(texts, min_size=2, max_size=4))
def test_no_key_and_no_long_beginning_of_it_is_ever_shown(key: str, around: list[str]) -> None:
    message = shown(key.join(around), key)

    assert key not in message
    assert len(key) < 8 or key[:8] not in message


@given(st.integers(0, MESSAGE_CHARS + 10))
def test_a_cut_within_the_key_leaves_less_than_six_of_its_characters(before: int) -> None:
    assert KEY[:6] not in shown("x" * before + " " + KEY + " y" * 10, KEY)


def test_a_short_secret_hides_no_beginning_of_other_words() -> None:
    assert shown("the token tokens are invalid token", "token-abc123") == "the token tokens are invalid token"


@given(texts, texts)
def test_a_message_without_the_secret_stays(text: str, secret: str) -> None:
    assume(len(secret.strip()) >= 4)
    assume(secret.strip()[:4] not in text)

    assert shown(text, secret) == " ".join(text.split())


@pytest.mark.parametrize("before", [b"", b"k", b"ke", b"Authorization: Bearer "])
def test_an_encoded_key_is_replaced(before: bytes) -> None:
    key = "sk-proj-Zq81/mN4r+T7vX2bLw"
    secrets = ClientSettings(base_urls=("http://h",), model="m", api_key=key).access.secrets()
    for encoded in (
        b64encode(before + key.encode()).decode(),
        urlsafe_b64encode(before + key.encode() + b"more").decode(),
        (before + key.encode()).hex(),
        quote(before + key.encode(), safe=""),
    ):
        error = without_secrets(request_error(ErrorType.ENGINE_ERROR, f"wrong key {encoded}!"), secrets)

        assert "***" in error.message
        left = error.message.replace("***", "").removeprefix("wrong key ")
        assert len(left) <= len(encoded) - len(key)
