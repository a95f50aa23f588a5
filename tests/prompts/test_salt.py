"""Salts: no two of a run alike on any number of workers, and the same again from the same seed and key."""

from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from llmload.prompts.conversation import Conversation, Prompt, as_message
from llmload.prompts.salts import SALT_CHARS, SaltMode, Salts, salt_text
from llmload.prompts.workload import PromptQueue

WORKERS = st.integers(1, 8)


def drawn(count: int, *, key: str = "run", seed: int = 0, workers: int = 1) -> list[str | None]:
    each = [Salts("request", seed=seed, key=key, worker_index=i, worker_count=workers) for i in range(workers)]
    return [each[number % workers].next() for number in range(count)]


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(-5, 2**40), key=st.text(max_size=20), workers=WORKERS)
def test_no_two_requests_of_a_run_have_the_same_salt(seed: int, key: str, workers: int) -> None:
    salts = drawn(500, key=key, seed=seed, workers=workers)

    assert len(set(salts)) == len(salts)
    assert {len(salt or "") for salt in salts} == {SALT_CHARS}
    assert all(salt and salt.isascii() and salt.isalnum() and salt == salt.lower() for salt in salts)


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 1000), workers=WORKERS)
def test_seed_and_key_give_the_same_salts_on_any_number_of_workers(seed: int, workers: int) -> None:
    assert drawn(50, seed=seed) == drawn(50, seed=seed, workers=workers)


@settings(deadline=None, max_examples=30)
@given(workers=WORKERS, size=st.integers(1, 30))
def test_an_index_of_the_drawn_order_has_the_same_salt_whichever_worker_sends_it(workers: int, size: int) -> None:
    conversations = [Conversation(row, (Prompt(str(row), (as_message("user", "?"),)),)) for row in range(size)]

    def sent(count: int) -> dict[tuple[int, int], str | None]:
        found = {}
        for index in range(count):
            queue = PromptQueue(conversations, seed=3, repeat=True, worker_index=index, worker_count=count)
            salts = Salts("request", seed=3, key="k", worker_index=index, worker_count=count)
            for turn in range(40):
                taken = queue.next()
                assert taken is not None
                round_of_queue = (index + turn * count) // size
                found[round_of_queue, taken.row] = salts.next()
        return found

    alone, together = sent(1), sent(workers)

    assert all(together[index] == salt for index, salt in alone.items() if index in together)


def test_another_run_or_seed_has_other_salts() -> None:
    assert not set(drawn(5000)) & set(drawn(5000, key="other run"))
    assert not set(drawn(5000)) & set(drawn(5000, seed=1))


def test_neighbours_have_no_beginning_in_common() -> None:
    salts = drawn(2000)
    same = sum((a or "")[:3] == (b or "")[:3] for a, b in pairwise(salts))

    assert same <= 2  # by chance one in 32,768


def test_a_run_has_one_salt_for_all_its_workers() -> None:
    workers = [Salts("run", seed=0, key="r", worker_index=i, worker_count=4) for i in range(4)]

    assert len({worker.next() for worker in workers for _ in range(3)}) == 1


def test_only_what_is_sent_again_is_salted_and_never_twice_alike() -> None:
    def salts_of(mode: SaltMode | None, index: int) -> list[str | None]:
        salts = Salts(mode, repeats=True, seed=0, key="r", worker_index=index, worker_count=2)
        return [salts.next(repeated=repeated) for repeated in (False, True, False, True)]

    first, second = salts_of(None, 0), salts_of(None, 1)
    assert [first[0], first[2], second[0], second[2]] == [None] * 4
    assert len({first[1], first[3], second[1], second[3]} - {None}) == 4

    one, other = salts_of("run", 0), salts_of("run", 1)
    assert len({one[0], one[2], other[0], other[2]}) == 1
    assert len({*one, *other}) == 5


def test_the_salt_is_before_the_first_message_of_any_role() -> None:
    messages = (as_message("system", "Be brief."), as_message("user", "Why?"))
    salted = Prompt("1", messages).salted("abc")

    assert salted == Prompt("1", (as_message("system", "abc\nBe brief."), as_message("user", "Why?")))


def test_all_64_bits_are_written() -> None:
    assert salt_text(0) == "a" * SALT_CHARS
    assert salt_text(2**64 - 1) == "7" * 12 + "p"
