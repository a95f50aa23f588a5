"""The prompt set that comes with the package, held to what its README says of it."""

import json
import re
import statistics
import subprocess
import sys
from collections import Counter
from importlib.resources import files
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from llmload.prompts.files import read_json
from llmload.prompts.hub import read_hub_rows

DATA = files("llmload") / "prompts" / "data"
KINDS = {"advice", "how_to", "technical", "writing", "knowledge", "nlp", "reasoning", "multi_turn"}
LIMA_FIRST_PROMPT_LENGTHS = {5: 25, 25: 46, 50: 96, 75: 239, 90: 571, 95: 757, 99: 1694}
"""Characters of the first user prompt in LIMA's train.jsonl (1,030 rows), by percentile."""
LIMA_LONGEST = 7840

Row = dict[str, Any]


@pytest.fixture(scope="module")
def text() -> str:
    return (DATA / "builtin.jsonl").read_bytes().decode("utf-8")


@pytest.fixture(scope="module")
def rows(text: str) -> list[Row]:
    return [json.loads(line) for line in text.splitlines()]


@pytest.fixture(scope="module")
def lengths(rows: list[Row]) -> list[int]:
    return [len(row["conversations"][0]) for row in rows]


@pytest.fixture(scope="module")
def readme() -> str:
    return (DATA / "README.md").read_text(encoding="utf-8")


def percentiles(lengths: list[int]) -> dict[int, float]:
    cuts = statistics.quantiles(lengths, n=100, method="inclusive")
    return {percent: cuts[percent - 1] for percent in LIMA_FIRST_PROMPT_LENGTHS}


class TestFile:
    def test_is_utf8_without_a_byte_order_mark_and_ends_each_line_with_a_plain_newline(self, text: str) -> None:
        assert not text.startswith("\ufeff")
        assert "\r" not in text
        assert text.endswith("}\n")

    def test_has_one_object_a_line_with_lima_s_two_keys(self, rows: list[Row]) -> None:
        assert all(list(row) == ["conversations", "source"] for row in rows)

    def test_has_characters_outside_ascii_and_outside_two_utf8_bytes(self, text: str) -> None:
        assert len(re.findall(r"[\u3040-\u30ff\u4e00-\u9fff]", text)) > 100
        assert re.search(r"[\U0001f300-\U0001faff]", text)
        assert all(letter in text for letter in "éñüß√≈→½")

    def test_names_no_address_outside_the_domain_reserved_for_examples(self, text: str) -> None:
        addresses = re.findall(r"@([a-z0-9-]+\.[a-z]{2,})", text, flags=re.IGNORECASE)
        assert set(addresses) <= {"example.org"}
        assert "http://" not in text
        assert "https://" not in text


class TestConversations:
    def test_there_are_at_least_two_hundred(self, rows: list[Row]) -> None:
        assert len(rows) >= 200

    def test_no_two_begin_with_the_same_prompt_whatever_the_case_and_spacing(self, rows: list[Row]) -> None:
        firsts = Counter(" ".join(row["conversations"][0].casefold().split()) for row in rows)
        assert [first for first, count in firsts.items() if count > 1] == []

    def test_every_turn_is_text_without_space_around_it(self, rows: list[Row]) -> None:
        turns = [turn for row in rows for turn in row["conversations"]]
        assert all(isinstance(turn, str) and turn and turn == turn.strip() for turn in turns)

    def test_no_turn_repeats_the_one_before(self, rows: list[Row]) -> None:
        """Turns alternate by position, the user first, so a lost or doubled turn would shift the roles after it."""
        for row in rows:
            turns = row["conversations"]
            assert all(one != other for one, other in pairwise(turns))

    def test_every_kind_that_the_readme_names_is_there_and_no_other(self, rows: list[Row]) -> None:
        assert {row["source"] for row in rows} == KINDS

    def test_a_conversation_is_called_multi_turn_exactly_when_the_user_or_the_answer_comes_back(
        self, rows: list[Row]
    ) -> None:
        assert all((row["source"] == "multi_turn") == (len(row["conversations"]) > 2) for row in rows)

    def test_at_least_twenty_have_several_turns_of_at_most_nine_entries(self, rows: list[Row]) -> None:
        entries = [len(row["conversations"]) for row in rows if row["source"] == "multi_turn"]
        assert len(entries) >= 20
        assert max(entries) <= 9

    def test_several_turns_end_on_the_user_in_some_rows_and_on_the_answer_in_others(self, rows: list[Row]) -> None:
        ends = Counter(len(row["conversations"]) % 2 for row in rows if row["source"] == "multi_turn")
        assert min(ends[0], ends[1]) >= 5

    def test_at_least_eighty_single_turns_are_answered_for_example_pairs_to_be_drawn(self, rows: list[Row]) -> None:
        answers = [row["conversations"][1] for row in rows if len(row["conversations"]) == 2]
        assert len(answers) >= 80
        assert all(200 <= len(answer) <= 1300 for answer in answers)

    def test_some_single_turns_have_no_answer(self, rows: list[Row]) -> None:
        assert any(len(row["conversations"]) == 1 for row in rows)


class TestFirstPromptLengths:
    @pytest.mark.parametrize("percent", LIMA_FIRST_PROMPT_LENGTHS)
    def test_percentile_is_within_a_quarter_of_lima_s(self, lengths: list[int], percent: int) -> None:
        assert percentiles(lengths)[percent] == pytest.approx(LIMA_FIRST_PROMPT_LENGTHS[percent], rel=0.25)

    def test_the_longest_is_within_a_quarter_of_lima_s_longest(self, lengths: list[int]) -> None:
        assert max(lengths) == pytest.approx(LIMA_LONGEST, rel=0.25)

    def test_two_or_three_are_of_four_to_eight_thousand_characters(self, lengths: list[int]) -> None:
        assert 2 <= sum(4000 <= length <= 8000 for length in lengths) <= 3

    def test_the_first_fifty_rows_are_mixed_like_the_whole(self, rows: list[Row], lengths: list[int]) -> None:
        """A short run takes rows from the top, so the file is not sorted by kind or by length."""
        assert len({row["source"] for row in rows[:50]}) >= 7
        assert statistics.median(lengths[:50]) == pytest.approx(statistics.median(lengths), rel=0.6)


class TestReadme:
    def test_states_how_many_rows_of_each_kind_there_are_and_how_many_are_answered(
        self, readme: str, rows: list[Row]
    ) -> None:
        kinds = Counter(row["source"] for row in rows)
        answered = Counter(row["source"] for row in rows if len(row["conversations"]) == 2)
        stated = re.findall(r"^\| `(\w+)` \| (\d+) \| (\d*)", readme, flags=re.MULTILINE)
        assert {kind: (int(count), int(pairs or 0)) for kind, count, pairs in stated} == {
            kind: (count, answered[kind]) for kind, count in kinds.items()
        }
        assert f"| all | {len(rows)} | {answered.total()} |" in readme
        assert f"{len(rows)} conversations" in readme

    def test_states_the_lengths_of_the_first_prompts_and_of_the_answers(
        self, readme: str, rows: list[Row], lengths: list[int]
    ) -> None:
        answers = [len(row["conversations"][1]) for row in rows if len(row["conversations"]) == 2]
        for measured in (lengths, answers):
            figures = [min(measured), *(round(value) for value in percentiles(measured).values()), max(measured)]
            assert "| this set | " + " | ".join(f"{figure:,}" for figure in figures) + " |" in readme


def test_both_readers_read_the_same_of_it() -> None:
    file = Path(str(DATA / "builtin.jsonl"))

    assert [row.value for row in read_hub_rows((file,))] == [row.value for row in read_json(file, "x")]


def test_reading_it_imports_no_library() -> None:
    program = (
        "import sys; from pathlib import Path; from llmload.prompts.sources import load_prompt_set;"
        "print(len(load_prompt_set('builtin', None, Path()).dialogues),"
        "bool({'datasets', 'pyarrow', 'pandas'} & sys.modules.keys()))"
    )

    assert (
        subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
        == "302 False\n"
    )
