"""The queue gives every drawn conversation once, to one worker, in an order that only the seed decides."""

from collections.abc import Iterator
from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmload.errors import DataError
from llmload.prompts.conversation import Conversation, Prompt, as_message
from llmload.prompts.workload import PromptQueue, draw

SEEDS = st.integers(min_value=-(2**70), max_value=2**70)


def conversations(count: int, prompts: int = 1) -> tuple[Conversation, ...]:
    prompt = Prompt("x", (as_message("user", "q"),))
    return tuple(Conversation(row, (prompt,) * prompts) for row in range(count))


def queues(count: int, workers: int, *, seed: int = 0, repeat: bool = False) -> list[PromptQueue]:
    drawn = conversations(count)
    return [
        PromptQueue(drawn, seed=seed, repeat=repeat, worker_index=index, worker_count=workers)
        for index in range(workers)
    ]


def rows_of(queue: PromptQueue) -> Iterator[int]:
    while (conversation := queue.next()) is not None:
        yield conversation.row


class TestDraw:
    def test_is_the_same_on_every_machine_and_python(self) -> None:
        assert draw(1030, 5, 0) == (968, 23, 160, 838, 150)
        assert draw(10, None, 42) == (1, 8, 4, 0, 6, 5, 9, 7, 3, 2)

    @given(rows=st.integers(1, 300), seed=SEEDS, data=st.data())
    def test_is_without_replacement_and_the_beginning_of_a_larger_one(
        self, rows: int, seed: int, data: st.DataObject
    ) -> None:
        count = data.draw(st.integers(1, rows))

        drawn = draw(rows, count, seed)

        assert len(set(drawn)) == len(drawn) == count
        assert drawn == draw(rows, None, seed)[:count]

    def test_a_seed_and_its_negative_draw_differently(self) -> None:
        assert draw(100, None, 1) != draw(100, None, -1)

    def test_more_than_there_are_is_refused(self) -> None:
        with pytest.raises(DataError, match="count = 4, but the data set has only 3"):
            draw(3, 4, 0)


class TestQueue:
    @given(count=st.integers(1, 60), workers=st.integers(1, 9))
    def test_the_workers_queues_are_disjoint_and_together_all_that_was_drawn(self, count: int, workers: int) -> None:
        shares = [list(rows_of(queue)) for queue in queues(count, workers)]

        assert sorted(row for share in shares for row in share) == list(range(count))
        assert shares == [list(range(index, count, workers)) for index in range(workers)]

    @given(count=st.integers(1, 30), workers=st.integers(1, 7), rounds=st.integers(1, 4), seed=SEEDS)
    def test_repeating_takes_each_index_of_each_round_once_among_all_workers(
        self, count: int, workers: int, rounds: int, seed: int
    ) -> None:
        taken: dict[int, int] = {}
        for index, queue in enumerate(queues(count, workers, seed=seed, repeat=True)):
            for position in range(index, count * rounds, workers):
                conversation = queue.next()
                assert conversation is not None
                taken[position] = conversation.row

        by_round = [[taken[index] for index in range(count * n, count * (n + 1))] for n in range(rounds)]
        assert [sorted(rows) for rows in by_round] == [list(range(count))] * rounds

    @given(count=st.integers(1, 30), workers=st.integers(1, 7), seed=SEEDS)
    def test_the_same_seed_gives_the_same_again(self, count: int, workers: int, seed: int) -> None:
        first, second = (queues(count, workers, seed=seed, repeat=True) for _ in range(2))

        assert [list(islice(rows_of(queue), 50)) for queue in first] == [
            list(islice(rows_of(queue), 50)) for queue in second
        ]

    def test_an_exhausted_queue_stays_exhausted(self) -> None:
        (queue,) = queues(2, 1)

        assert [queue.next() is None for _ in range(5)] == [False, False, True, True, True]
        assert (queue.taken, queue.reused) == (2, 0)

    def test_rounds_are_in_different_orders(self) -> None:
        (queue,) = queues(20, 1, repeat=True)

        rows = list(islice(rows_of(queue), 60))

        assert rows[:20] == list(range(20))
        assert len({tuple(rows[:20]), tuple(rows[20:40]), tuple(rows[40:])}) == 3

    def test_counts_requests_not_conversations_and_those_taken_before(self) -> None:
        queue = PromptQueue(conversations(2, prompts=3), seed=0, repeat=True, worker_index=0, worker_count=1)

        for _ in range(3):
            queue.next()

        assert (queue.taken, queue.reused) == (9, 3)

    def test_a_worker_beyond_the_drawn_rows_has_nothing_unless_rows_repeat(self) -> None:
        assert [queue.next() is None for queue in queues(2, 3)] == [False, False, True]
        assert [queue.next() is None for queue in queues(2, 3, repeat=True)] == [False, False, False]

    def test_without_conversations_it_is_empty(self) -> None:
        assert PromptQueue((), seed=0, repeat=True, worker_index=0, worker_count=1).next() is None

    @pytest.mark.parametrize(("index", "count"), [(-1, 2), (2, 2), (0, 0)])
    def test_a_worker_that_is_not_among_the_workers_is_refused(self, index: int, count: int) -> None:
        with pytest.raises(ValueError, match=f"worker {index} is not one of {count}"):
            PromptQueue((), seed=0, repeat=False, worker_index=index, worker_count=count)
