"""Requested lengths beside counted ones: what is counted, and what it does to the verdict."""

import pytest

from llmload.metrics.checks import health, judge, lengths_missed_by
from llmload.metrics.totals import RunTotals
from llmload.metrics.validity import Level
from llmload.record import Outcome, RequestRecord, Slo, TokenSource, Window

OPEN = Window(start_ns=0)


def answer(asked: tuple[int | None, int | None], counted: tuple[int | None, int | None]) -> RequestRecord:
    return RequestRecord(
        request_id="r",
        prompt_id="p",
        started_ns=1,
        done_ns=2,
        outcome=Outcome.COMPLETED,
        asked_prompt_tokens=asked[0],
        asked_output_tokens=asked[1],
        prompt_tokens=counted[0],
        output_tokens=counted[1],
        token_source=TokenSource.USAGE,
    )


def totals_of(*answers: RequestRecord) -> RunTotals:
    totals = RunTotals()
    for each in answers:
        totals.started += 1
        totals.add(each, window=OPEN, slo=Slo(), run_start_ns=0)
    return totals


def test_means_exact_ones_and_the_most_off_are_known() -> None:
    totals = totals_of(
        answer((100, 10), (100, 10)),
        answer((300, 10), (297, 10)),
        answer((None, 10), (5, 4)),
        answer((7, 7), (None, 7)),
    )
    prompts, outputs = totals.lengths_kept

    assert prompts is not None
    assert outputs is not None
    assert (prompts.requests, prompts.asked_mean, prompts.counted_mean) == (2, 200, 198.5)
    assert (prompts.exact_share, prompts.off_share, totals.prompt_length_off_max) == (0.5, 3 / 400, 3)
    assert (outputs.requests, outputs.exact_share, totals.output_length_off_max) == (4, 0.75, 6)


def test_without_a_request_for_lengths_nothing_is_said() -> None:
    figures = health(totals_of(answer((None, None), (5, 5))))

    assert (figures["missed_length_share"], figures["missed_token_share"]) == (None, None)


@pytest.mark.parametrize(
    ("missed", "off", "checks", "level"),
    [
        (1, 4, [], Level.VALID),
        (2, 1, ["missed_length_share"], Level.DEGRADED),
        (1, 60, ["missed_token_share"], Level.DEGRADED),
        (50, 20, ["missed_token_share", "missed_length_share"], Level.INVALID),
    ],
)
def test_missed_lengths_are_in_the_verdict(missed: int, off: int, checks: list[str], level: Level) -> None:
    lengths = [100 - off] * missed + [100] * (100 - missed)
    totals = totals_of(*(answer((100, None), (each, 5)) for each in lengths))
    names = ("missed_length_share", "missed_token_share")
    verdict = judge({name: health(totals)[name] for name in names}, relied_on=(), totals=totals)

    assert [reason.check for reason in verdict.reasons] == checks
    assert verdict.level == level


def test_a_name_that_misses_its_lengths_is_named_though_most_requests_have_theirs() -> None:
    kept, missed = answer((100, None), (100, 5)), answer((100, None), (97, 5))
    names = {"chat": totals_of(*[kept] * 300), "rare": totals_of(kept, missed), "rarer": totals_of(*[kept] * 3, missed)}
    whole = totals_of(*[kept] * 304, *[missed] * 2)

    verdict = judge(health(whole), lengths_missed_by(names), relied_on=(), totals=whole)

    assert lengths_missed_by({"chat": names["chat"]}) == []
    assert [(each.check, each.level) for each in verdict.reasons] == [
        ("missed_length_share", Level.DEGRADED),
        ("missed_token_share", Level.DEGRADED),
    ]
    assert all(each.text.startswith("of 'rare', missed ") for each in verdict.reasons)


def test_a_request_for_no_tokens_is_none() -> None:
    assert totals_of(answer((0, 0), (5, 5))).lengths_kept == (None, None)
