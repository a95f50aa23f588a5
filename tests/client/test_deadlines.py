"""The deadline of a request, and the pauses before it is sent again, without a network."""

import email.utils
import time
from unittest.mock import patch

import pytest

from llmload.client.api import ChatStream
from llmload.client.client import Attempt, RequestInfo, send_with_retries
from llmload.client.errors import attempt_error, from_status
from llmload.client.settings import Deadline, Timeouts
from llmload.record import ErrorType, RequestRecord
from llmload.units import NS_PER_S


def test_a_deadline_counts_from_when_the_request_was_due() -> None:
    deadline = Deadline(Timeouts(total_s=2), 5 * NS_PER_S, stream=True)

    assert deadline.ends_ns == 7 * NS_PER_S
    assert deadline.next_check_ns(6 * NS_PER_S) == 7 * NS_PER_S


@pytest.mark.parametrize(
    ("began_s", "until_s", "error_type"),
    [(0, 3, ErrorType.CONNECT_TIMEOUT), (6, 9, ErrorType.CONNECT_TIMEOUT), (8, 10, ErrorType.TOTAL_TIMEOUT)],
)
def test_a_connection_has_its_own_limit_or_what_is_left(began_s: int, until_s: int, error_type: ErrorType) -> None:
    deadline = Deadline(Timeouts(connect_s=3, total_s=10), 0, stream=True)

    until_ns, error = deadline.connecting(began_s * NS_PER_S)

    assert (until_ns, error.type) == (until_s * NS_PER_S, error_type)


def sent(answers: list[str | None], total_s: float | None, retries: int = 9) -> tuple[RequestRecord, list[float]]:
    """Return the record of a request whose attempts end with 503 and these Retry-After, and the pauses it made."""
    now_ns, pauses, left = time.monotonic_ns(), [], list(answers)

    def send(_: RequestInfo, attempt: Attempt) -> None:
        attempt.error = from_status(503, b"busy", left.pop(0)) if left else None

    def sleep(pause_s: float) -> None:
        pauses.append(pause_s)

    request = RequestInfo("1", "p", None, None, now_ns)
    deadline = Deadline(Timeouts(total_s=total_s), now_ns, stream=True)
    with patch("gevent.sleep", sleep):
        record = send_with_retries(request, deadline, ChatStream, send, retries=retries, secrets=())
    return record, pauses


@pytest.mark.parametrize(
    ("answers", "total_s", "pauses"),
    [
        ([None] * 7, 600, [0.5, 1, 2, 4, 8, 8, 8]),
        (["12", "3600"], None, [12, 3600]),
        (["12"], 600, [12]),
        (["599"], 600, [599]),
        (["0"], 600, [0]),
        (["-3"], 600, [0]),
        (["soon"], 600, [0.5]),
        (["inf"], 600, [0.5]),
        (["nan"], 600, [0.5]),
        (["Mon, 99 Jan"], 600, [0.5]),
    ],
)
def test_pauses(answers: list[str | None], total_s: float | None, pauses: list[float]) -> None:
    record, made = sent(answers, total_s)

    assert record.ok
    assert made == pauses
    assert record.retries == len(pauses)


@pytest.mark.parametrize(("answers", "total_s"), [(["600"], 600), (["1e300"], 600), (["1e300"], 1e300), ([None], 0.5)])
def test_a_pause_that_does_not_fit_is_not_made(answers: list[str | None], total_s: float) -> None:
    record, made = sent(answers, total_s)

    assert made == []
    assert record.error is not None
    assert record.error.message.startswith("not sent again")
    assert record.retries == 0


def test_without_retries_left_the_failure_is_as_it_was() -> None:
    record, _ = sent(["900"], 600, retries=0)

    assert record.error is not None
    assert record.error.message == "HTTP 503: busy"


@pytest.mark.parametrize("form", ["%a, %d %b %Y %H:%M:%S GMT", "%a, %d %b %Y %H:%M:%S -0000", "%a %b %d %H:%M:%S %Y"])
def test_retry_after_may_be_a_date_in_utc(form: str) -> None:
    moment = time.gmtime(time.time() + 100)

    error = from_status(429, b"", time.strftime(form, moment))

    assert error.retry_after_s == pytest.approx(99.5, abs=1)


def test_a_date_in_the_past_needs_no_wait() -> None:
    assert from_status(429, b"", email.utils.formatdate(time.time() - 100, usegmt=True)).retry_after_s == 0


def test_a_process_that_was_busy_past_the_deadline_does_not_send_again() -> None:
    now_ns = time.monotonic_ns()
    attempts = []

    def send(_: RequestInfo, attempt: Attempt) -> None:
        attempts.append(attempt)
        raise attempt_error(ErrorType.CONNECT_REFUSED, "refused")

    deadline = Deadline(Timeouts(total_s=0.6), now_ns, stream=True)
    with patch("gevent.sleep", lambda _: time.sleep(0.7)):
        record = send_with_retries(
            RequestInfo("1", "p", None, None, now_ns), deadline, ChatStream, send, retries=3, secrets=()
        )

    assert len(attempts) == 1
    assert record.error is not None
    assert record.error.type is ErrorType.CONNECT_REFUSED
    assert record.retries == 0
