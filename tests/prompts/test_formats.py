"""LIMA's, ShareGPT's and OpenAI's forms are read; anything else is refused, and the file and line are named."""

import json
from pathlib import Path
from typing import Any

import pytest

from llmload.errors import DataError
from llmload.prompts.sources import load_prompt_set
from tests.prompts.conftest import WriteRows

SHAREGPT = [("system", "s"), ("human", "q1"), ("gpt", "a1"), ("user", "q2"), ("assistant", "a2")]
OPENAI = [("system", "s"), ("user", "q1"), ("assistant", "a1"), ("user", "q2"), ("assistant", "a2")]
READ = [{"role": role, "content": text} for role, text in OPENAI]


def sharegpt(*turns: tuple[str, str]) -> dict[str, Any]:
    return {"id": "x", "conversations": [{"from": role, "value": text} for role, text in turns]}


def openai(*turns: tuple[str, Any]) -> dict[str, Any]:
    return {"messages": [{"role": role, "content": text} for role, text in turns]}


class TestForms:
    @pytest.mark.parametrize(
        ("row", "messages"),
        [
            pytest.param({"conversations": ["q1", "a1", "q2", "a2"]}, READ[1:], id="lima"),
            pytest.param(sharegpt(*SHAREGPT), READ, id="sharegpt"),
            pytest.param(openai(*OPENAI), READ, id="openai"),
            pytest.param({"conversations": openai(*OPENAI)["messages"]}, READ, id="openai-turns-in-conversations"),
        ],
    )
    @pytest.mark.parametrize("suffix", [".jsonl", ".json", ".parquet"])
    def test_each_form_in_each_format_gives_the_same_messages(
        self, tmp_path: Path, row: dict[str, Any], messages: list[Any], suffix: str
    ) -> None:
        file = tmp_path / f"x{suffix}"
        if suffix == ".parquet":
            import pandas as pd

            pd.DataFrame([row, row]).to_parquet(file)
        else:
            file.write_text(json.dumps([row, row], indent=2) if suffix == ".json" else f"{json.dumps(row)}\n" * 2)

        prompt_set = load_prompt_set(str(file), None, Path())

        assert [list(dialogue.messages) for dialogue in prompt_set.dialogues] == [messages, messages]

    def test_text_comes_through_as_it_was_written(self, write_rows: WriteRows) -> None:
        written = [" Grüße, 世界 🚀 \t\n\u2028 <b>[x]</b> ", "2024-01-01T00:00:00Z", "a"]
        file = write_rows("x.jsonl", [{"conversations": [text, "answer"]} for text in written])

        prompt_set = load_prompt_set(str(file), None, Path())

        assert [dialogue.question for dialogue in prompt_set.dialogues] == written


class TestRowsThatAreLeftOut:
    @pytest.mark.parametrize(
        ("row", "reason"),
        [
            (sharegpt(), "no turn by the user"),
            (sharegpt(("system", "s")), "no turn by the user"),
            (sharegpt(("gpt", "hello"), ("human", "q")), "begins with the assistant's turn"),
            (sharegpt(("human", " \n")), "has a turn without text"),
            (sharegpt(("human", "q"), ("tool", "t")), "has a turn by 'tool', which is not replayed"),
        ],
    )
    def test_are_counted_with_the_reason(self, write_rows: WriteRows, row: Any, reason: str) -> None:
        file = write_rows("x.jsonl", [sharegpt(("human", "fine")), row])

        prompt_set = load_prompt_set(str(file), None, Path())

        assert prompt_set.skipped_by_reason() == {reason: 1}
        assert [skipped.row for skipped in prompt_set.skipped] == [1]
        assert (prompt_set.row_count, len(prompt_set.dialogues)) == (2, 1)

    def test_calls_pictures_and_null_are_skipped(self, write_rows: WriteRows) -> None:
        picture = {"type": "image_url", "image_url": {"url": "data:,"}}
        file = write_rows(
            "x.jsonl",
            [
                openai(("user", "q")),
                openai(("user", [{"type": "text", "text": "q"}, picture])),
                openai(("user", [{"type": ["text"], "text": "q"}])),
                openai(("user", "q"), ("assistant", None)),
                openai(("user", [])),
                {"messages": None},
            ],
        )

        reasons = load_prompt_set(str(file), None, Path()).skipped_by_reason()

        assert reasons == {
            "has a turn with a part that is not text": 2,
            "has a turn without text": 2,
            "has null instead of turns": 1,
        }

    def test_a_file_of_nothing_else_is_an_error(self, write_rows: WriteRows) -> None:
        file = write_rows("x.jsonl", [{"conversations": [""]}, {"conversations": [" ", "a"]}])

        with pytest.raises(
            DataError, match="none of its 2 rows can become a request: 2 of them: has a turn without text"
        ):
            load_prompt_set(str(file), None, Path())


class TestWhatIsRefused:
    @pytest.mark.parametrize(
        ("rows", "message"),
        [
            ([{"prompt": "q"}], r"neither `conversations` nor `messages`.*its columns: `prompt`"),
            ([{**sharegpt(("human", "q")), **openai(("user", "q"))}], "both `conversations` and `messages`"),
            ([{"conversations": "q"}], r"row 0 .*`conversations` is 'q', not a list"),
            ([{"conversations": [3]}], r"row 0 .*`conversations\[0\]` is 3: a turn is text"),
            ([{"messages": ["q"]}], r"row 0 .*`messages\[0\]` is 'q': a turn has keys `role` and `content`"),
            (
                [{"conversations": ["q"]}, sharegpt(("human", "q"))],
                r"row 1 .*`conversations\[0\]` is {'from'.*not text",
            ),
            (
                [sharegpt(("human", "q")), {"conversations": ["q"]}],
                r"row 1 .*`conversations\[0\]` is 'q', without the keys",
            ),
            ([{"conversations": ["q", "a"]}, {"conversations": ["q", 7]}], r"row 1 .*`conversations\[1\]` is 7"),
            ([{"conversations": ["q"]}, {"source": "x"}], r"row 1 .*neither `conversations` nor `messages`.*`source`"),
            (
                [sharegpt(("human", "q"), ("alien", "a"))],
                r"row 0 .*\[1\]` has 'alien' as `from`; known are system, user",
            ),
            (
                [openai(("user", "q")), {"messages": [{"role": "user"}]}],
                r"row 1 .*`messages\[0\]` has None as `content`",
            ),
            ([openai(("user", "q"), ("assistant", 5))], r"`messages\[1\]` has 5 as `content`, not text"),
        ],
    )
    def test_names_file_row_key_and_value(self, write_rows: WriteRows, rows: list[Any], message: str) -> None:
        file = write_rows("x.jsonl", rows)

        with pytest.raises(DataError, match=rf"x\.jsonl: .*{message}"):
            load_prompt_set(str(file), None, Path())

    @pytest.mark.parametrize(
        ("name", "content", "message"),
        [
            ("x.jsonl", b"", "is empty"),
            ("x.jsonl", b"\n \n", "has no rows"),
            ("x.json", b"[]", "has no rows"),
            ("x.jsonl", b'{"conversations": ["q"]}\n\n{"conversations": ["q"\n', "line 3 is not JSON"),
            ("x.jsonl", b'{"conversations": ["q"]}\n"text"\n', "line 2 is not an object"),
            ("x.json", b'[{"conversations": ["q"]},\n oops]', "line 2 is not JSON"),
            ("x.json", b'[{"conversations": ["q"]}, 3]', r"row 1 \(the first is 0\) is not an object"),
            ("x.json", b'{"data": [{"conversations": ["q"]}]}', "neither `conversations` nor `messages`"),
            ("x.jsonl", b'{"conversations": ["\xff"]}\n', "is not UTF-8"),
            ("x.jsonl", b"not JSON at all", "line 1 is not JSON"),
            ("x.parquet", b"PAR0 and so on", "is not a Parquet file"),
            ("x.parquet", b"PAR1 and so on", "cannot be read as Parquet"),
        ],
    )
    def test_a_broken_file_is_refused_with_the_line(
        self, tmp_path: Path, name: str, content: bytes, message: str
    ) -> None:
        (tmp_path / name).write_bytes(content)

        with pytest.raises(DataError, match=rf"{name}: .*{message}"):
            load_prompt_set(name, None, tmp_path)
