"""Failures by the engine's words: what varies is hidden, parts merge to the whole, memory is bounded."""

import re
from itertools import permutations
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmload.metrics.failures import ADVICE, CHARACTERS, KEPT, SENT, Failure, Failures, without_varying
from llmload.record import ErrorType

STATUSES = (None, 500, 503)


def counted(*messages: str, error_type: str = "http_5xx", http_status: int | None = None) -> Failures:
    failures = Failures()
    for message in messages:
        failures.add(error_type, http_status, message)
    return failures


def words(*messages: str, http_status: int | None = None) -> dict[str, int]:
    return {each.words: each.count for each in counted(*messages, http_status=http_status).most_common()}


@pytest.mark.parametrize(
    ("messages", "shown"),
    [
        (["took 3 s", "took 3 s"], "took 3 s"),
        (["took 3 s", "took 41 s"], "took # s"),
        (["at most 4096 tokens, not 5012", "at most 4096 tokens, not 9000"], "at most 4096 tokens, not #"),
        (["no chatcmpl-9f3ab2c1d0 (1)", "no chatcmpl-77aa01bd3c (1)"], "no chatcmpl-* (1)"),
        (["req_011CSHoEeqs5C35K2UUqR7Fy failed", "req_0pQ7xx81Lm2aKKz0 failed"], "req_* failed"),
        (
            ["id 0f8fad5b-d9cb-469f-a165-70867728950e", "id 7c9e6679-7425-40de-944b-e07fc1f90ae7"],
            "id *",
        ),
        (["at 2026-01-31T10:00:01.5Z in", "at 2026-02-01T11:59:58.25Z in"], "at #-#-#T#:#:#Z in"),
        (["127.0.0.1:8000: refused", "127.0.0.1:8001: refused"], "#:#: refused"),
        (["model llama-3-8b is away", "model llama-3-8b is away"], "model llama-3-8b is away"),
        (["0x7f3a1c22 freed", "0x7f3b9d10 freed"], "* freed"),
    ],
)
def test_only_what_differs_between_the_same_words_is_hidden(messages: list[str], shown: str) -> None:
    for order in permutations(messages):
        assert words(*order) == {shown: len(messages)}


def test_different_words_are_different_failures() -> None:
    assert words("out of memory", "out of memory", "overloaded") == {"out of memory": 2, "overloaded": 1}


def test_the_status_is_beside_the_words_and_not_in_them() -> None:
    failures = counted("HTTP 503: busy", "HTTP 503", http_status=503)

    assert [(each.name, each.said) for each in failures.most_common()] == [
        ("http_5xx (503)", "Service Unavailable, without words"),
        ("http_5xx (503)", "busy"),
    ]


def test_words_that_quote_the_prompt_become_one_failure_and_hide_no_other() -> None:
    unlike = [f"cannot parse {chr(97 + index % 26)}{chr(97 + index // 26)} well" for index in range(400)]

    failures = counted(*unlike, *["out of memory"] * 300, *["cannot load the model"] * 200)

    assert [(each.words, each.count) for each in failures.most_common()] == [
        ("cannot parse …", 400),
        ("out of memory", 300),
        ("cannot load the model", 200),
    ]


@given(st.text())
def test_what_varies_is_taken_out_once(text: str) -> None:
    assert without_varying(without_varying(text)) == without_varying(text)
    assert not re.search("[0-9]", without_varying(text))


pieces = st.sampled_from(["a", "b", "cc", "7", "12", "x9", "0f8fad5b", "deadbeef01", "…", "#", "*", "é" * 70, "z" * 40])
messages = st.lists(pieces, max_size=50).map(" ".join) | st.text(max_size=30)
Found = list[tuple[ErrorType, int | None, str]]
some = st.lists(st.tuples(st.sampled_from(ErrorType), st.sampled_from(STATUSES), messages), max_size=80)


def of(found: Found) -> Failures:
    failures = Failures()
    for error_type, http_status, message in found:
        failures.add(error_type.value, http_status, message)
    return failures


def flat(failures: Failures) -> list[Failure]:
    return failures.most_common()


@given(st.lists(some, max_size=4), st.randoms(use_true_random=False))
def test_parts_merge_to_the_whole_in_any_order(parts: list[Found], random: Random) -> None:
    whole = of([each for part in parts for each in part])
    mixed = [of(part) for part in parts]
    random.shuffle(mixed)

    merged = Failures()
    merged.merge(*mixed)

    assert flat(merged) == flat(whole)
    assert sum(each.count for each in flat(merged)) == sum(map(len, parts))


@given(some)
def test_a_message_has_every_failure(found: Found) -> None:
    failures, received = of(found), Failures()
    received.update_from(failures.to_message(0))

    if len(flat(failures)) <= SENT[0]:
        assert flat(received) == flat(failures)


@given(some, st.integers(1, len(SENT) - 1))
def test_a_coarse_message_has_the_most_frequent_failures(found: Found, coarseness: int) -> None:
    failures, received = of(found), Failures()
    received.update_from(failures.to_message(coarseness))

    counts = [each.count for each in flat(failures)]
    assert [each.count for each in flat(received)] == counts[: SENT[coarseness]]


@given(st.lists(messages, max_size=200))
def test_what_is_kept_is_bounded(found: list[str]) -> None:
    failures = counted(*found)

    assert len(failures.most_common()) <= KEPT
    assert all(len(without_varying(each.words)) <= CHARACTERS + 2 for each in failures.most_common())


def test_every_type_of_error_has_its_advice() -> None:
    assert set(ADVICE) == set(ErrorType)
