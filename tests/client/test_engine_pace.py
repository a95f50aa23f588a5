"""How an engine is read, by what its answers have shown."""

from collections.abc import Iterator

import pytest

from llmload.client.engine_pace import EnginePace, Phase
from llmload.record import AFTER_ACKNOWLEDGEMENT, AT_ONCE

MS = 1_000_000


def answers(
    pace: EnginePace, count: int, *, bulk: bool = False, merged: int = 0, gap_ms: float = 10, last: int = 469
) -> Iterator[None]:
    """Show the pace answers of 100 gaps, one at each step."""
    for _ in range(count):
        pace.take_middle([220, 223, 227] * 33 + [220], merged, round(100 * gap_ms * MS), bulk=bulk)
        pace.take_end(last, bulk=bulk, noticed=True)
        yield


def learned(**odd: float) -> EnginePace:
    pace = EnginePace()
    list(answers(pace, 3, **odd))  # type: ignore[arg-type] # the numbers of the table
    return pace


def test_an_engine_is_read_promptly_until_gaps_and_ends_are_known() -> None:
    pace = EnginePace()
    phases = [pace.phase for _ in answers(pace, 4)]

    assert phases == [Phase.LEARNING, Phase.LEARNING, Phase.TRIAL, Phase.TRIAL]
    assert pace.usual_bytes == (220, 227)
    assert (pace.learning, pace.writes) == (True, None)


def test_a_few_streams_are_tried_and_then_all_are_read_in_bulk() -> None:
    pace = learned()
    for _ in range(3):
        assert pace.may_read_in_bulk(30)
        pace.begin_bulk()
    assert not pace.may_read_in_bulk(30), "a tenth of the streams"

    list(answers(pace, 1))
    list(answers(pace, 3, bulk=True))

    assert (pace.phase, pace.writes) == (Phase.BULK, AT_ONCE)
    assert pace.may_read_in_bulk(30)


def test_an_engine_whose_chunks_share_segments_when_read_late_is_read_promptly_for_good() -> None:
    pace = learned()
    list(answers(pace, 1, bulk=True, merged=60))

    assert (pace.phase, pace.writes) == (Phase.PROMPT, AFTER_ACKNOWLEDGEMENT), "one answer is enough to see that"
    assert not pace.may_read_in_bulk(1)


def test_an_engine_that_sends_several_chunks_at_a_time_anyway_is_read_in_bulk() -> None:
    pace = learned(merged=50)
    list(answers(pace, 2, merged=50))
    list(answers(pace, 3, bulk=True, merged=51))

    assert (pace.phase, pace.writes) == (Phase.BULK, AT_ONCE)


def test_under_another_load_both_ways_are_compared_again_before_anything_is_said() -> None:
    pace = learned()
    list(answers(pace, 1))
    list(answers(pace, 3, bulk=True))

    list(answers(pace, 4, bulk=True, merged=20))
    assert (pace.phase, pace.writes) == (Phase.TRIAL, None)

    list(answers(pace, 2, merged=20))
    list(answers(pace, 4, bulk=True, merged=20))
    assert (pace.phase, pace.writes) == (Phase.BULK, AT_ONCE), "it is the load, not the way of reading"


@pytest.mark.parametrize(("odd", "why"), [({"gap_ms": 50}, "slow"), ({"last": 223}, "its ends look like middles")])
def test_engines_that_are_always_read_promptly(odd: dict[str, float], why: str) -> None:
    pace = EnginePace()
    for last in (odd.pop("last", 469), 221, 222, 224, 225, 226) if why.startswith("its") else (469,) * 6:
        list(answers(pace, 1, last=int(last), **odd))  # type: ignore[arg-type] # the numbers of the table
        if pace.phase is Phase.TRIAL:
            break

    low, high = pace.usual_bytes
    assert pace.phase is Phase.PROMPT or low > high or not low <= int(last) <= high, why
    assert pace.writes is None


def test_ends_that_nobody_noticed_end_reading_in_bulk() -> None:
    pace = learned()
    list(answers(pace, 3, bulk=True))
    for number in range(30):
        pace.take_end(469, bulk=True, noticed=number % 4 > 0)

    assert pace.phase is Phase.PROMPT
    assert pace.writes is None, "it says nothing about acknowledgements"
