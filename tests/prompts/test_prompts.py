"""A plan gives the prompts it asks for, the same each time, or says why it cannot."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from llmload.errors import DataError
from llmload.prompts.workload import PromptPlan, load
from tests.prompts.conftest import WriteRows

TALK = {"conversations": ["q1", "a1", "q2", "a2", "q3"]}


def texts(workload: Any) -> list[list[str]]:
    return [[message["content"] for message in prompt.messages] for c in workload.conversations for prompt in c.prompts]


class TestTurns:
    def test_first_is_one_request_a_row_with_the_first_question_alone(self, write_rows: WriteRows) -> None:
        file = write_rows("x.jsonl", [TALK])

        workload = load(PromptPlan(source=str(file), turns="first"), Path())

        assert texts(workload) == [["q1"]]
        assert [prompt.prompt_id for prompt in workload.conversations[0].prompts] == ["0"]

    def test_all_is_each_question_after_the_data_sets_own_answers(self, write_rows: WriteRows) -> None:
        file = write_rows("x.jsonl", [TALK])

        workload = load(PromptPlan(source=str(file), turns="all"), Path())

        assert texts(workload) == [["q1"], ["q1", "a1", "q2"], ["q1", "a1", "q2", "a2", "q3"]]
        assert [prompt.prompt_id for prompt in workload.conversations[0].prompts] == ["0.1", "0.2", "0.3"]
        assert workload.request_count == 3

    @pytest.mark.parametrize("turns", ["first", "all"])
    def test_a_system_message_goes_with_every_request(self, write_rows: WriteRows, turns: Any) -> None:
        turns_of_row = [("system", "s"), ("user", "q1"), ("assistant", "a1"), ("user", "q2")]
        file = write_rows("x.jsonl", [{"messages": [{"role": role, "content": text} for role, text in turns_of_row]}])

        prompts = load(PromptPlan(source=str(file), turns=turns), Path()).conversations[0].prompts

        assert {(prompt.messages[0]["role"], prompt.messages[0]["content"]) for prompt in prompts} == {("system", "s")}
        assert {prompt.messages[-1]["role"] for prompt in prompts} == {"user"}


class TestDraw:
    def test_same_plan_same_conversations(self, ten_rows: Path) -> None:
        plan = PromptPlan(source=str(ten_rows), count=6, seed=4, n_shot=2, chain_of_thought=True)

        assert load(plan, Path()).conversations == load(plan, Path()).conversations

    def test_another_seed_another_order(self, ten_rows: Path) -> None:
        first, second = (load(PromptPlan(source=str(ten_rows), seed=seed), Path()).manifest() for seed in (1, 2))

        assert first["drawn"] != second["drawn"]
        assert sorted(first["drawn"]) == sorted(second["drawn"]) == list(range(10))

    def test_more_rows_than_there_are_is_refused_with_both_numbers(self, ten_rows: Path) -> None:
        with pytest.raises(DataError, match="count = 11, but the data set has only 10"):
            load(PromptPlan(source=str(ten_rows), count=11), Path())

    def test_drawn_rows_are_rows_of_the_file_even_where_some_are_skipped(self, write_rows: WriteRows) -> None:
        file = write_rows("x.jsonl", [{"conversations": [""]}, {"conversations": ["q"]}, {"conversations": []}])

        workload = load(PromptPlan(source=str(file)), Path())

        assert workload.manifest()["drawn"] == [1]
        assert workload.manifest()["rows"] == 3
        assert workload.manifest()["skipped"] == {"has a turn without text": 1, "no turn by the user": 1}


class TestPlan:
    @pytest.mark.parametrize("wrong", [{"count": 0}, {"n_shot": -1}, {"chain_of_thought": " "}])
    def test_values_out_of_range_are_refused_by_name(self, wrong: dict[str, Any]) -> None:
        with pytest.raises(DataError, match=next(iter(wrong))):
            PromptPlan(**wrong)

    def test_manifest_is_json_and_identifies_the_data(self, ten_rows: Path) -> None:
        plan = PromptPlan(source=str(ten_rows), count=2, seed=3, n_shot=1, chain_of_thought="Think.")

        manifest = json.loads(json.dumps(load(plan, Path()).manifest()))

        assert manifest["sha256"] == hashlib.sha256(ten_rows.read_bytes()).hexdigest()
        assert manifest["dataset"] == "ten"
        assert manifest["techniques"] == {"n_shot": 1, "chain_of_thought": "Think."}
        assert (manifest["seed"], manifest["requests"], len(manifest["drawn"])) == (3, 2, 2)


class TestWhereAPathIsLookedFor:
    def test_beside_the_scenario_before_the_working_directory(
        self, write_rows: WriteRows, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        write_rows("here/x.jsonl", [{"conversations": ["here"]}])
        write_rows("there/x.jsonl", [{"conversations": ["there"]}])
        write_rows("there/y.jsonl", [{"conversations": ["only there"]}])
        monkeypatch.chdir(tmp_path / "there")

        assert texts(load(PromptPlan(source="x.jsonl"), tmp_path / "here")) == [["here"]]
        assert texts(load(PromptPlan(source="y.jsonl"), tmp_path / "here")) == [["only there"]]

    def test_a_source_that_is_not_found_is_refused_and_not_replaced(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match=r"'bultin' is not builtin, lima or hf:.*there is no '.*bultin'"):
            load(PromptPlan(source="bultin"), tmp_path)

    def test_a_folder_gives_the_named_split_else_train(self, write_rows: WriteRows) -> None:
        folder = write_rows("d/train.jsonl", [{"conversations": ["from train"]}]).parent
        write_rows("d/test.jsonl", [{"conversations": ["from test"]}])

        assert texts(load(PromptPlan(source=str(folder)), Path())) == [["from train"]]
        assert texts(load(PromptPlan(source=str(folder), split="test"), Path())) == [["from test"]]
        with pytest.raises(DataError, match=r"no file of split 'validation'.*test\.jsonl, train\.jsonl"):
            load(PromptPlan(source=str(folder), split="validation"), Path())

    def test_a_split_that_is_there_twice_is_refused(self, write_rows: WriteRows) -> None:
        folder = write_rows("d/train.jsonl", [TALK]).parent
        write_rows("d/train.json", [TALK])

        with pytest.raises(DataError, match=r"more than once \(train\.jsonl, train\.json\)"):
            load(PromptPlan(source=str(folder)), Path())

    def test_shards_are_read_in_order_and_hashed_together(self, tmp_path: Path) -> None:
        import pandas as pd

        (tmp_path / "data").mkdir()
        for shard in (1, 0):
            frame = pd.DataFrame({"conversations": [[f"shard {shard}"]]})
            frame.to_parquet(tmp_path / "data" / f"train-0000{shard}-of-00002.parquet")

        workload = load(PromptPlan(source=str(tmp_path)), Path())

        shards = sorted((tmp_path / "data").iterdir())
        assert [dialogue.question for dialogue in workload.prompt_set.dialogues] == ["shard 0", "shard 1"]
        assert workload.prompt_set.sha256 == hashlib.sha256(b"".join(s.read_bytes() for s in shards)).hexdigest()

    @pytest.mark.parametrize(
        ("source", "split", "message"),
        [
            ("ten.jsonl", "train", "has no splits"),
            ("builtin", "train", "has no splits"),
            ("lima", "validation", "has no split 'validation': it has train and test"),
            ("hf:GAIR/lima", None, "names no file"),
            ("hf:GAIR/lima/lima.py", None, r"ends in '\.py'"),
            ("notes.txt", None, r"ends in '\.txt'"),
        ],
    )
    def test_a_source_that_cannot_be_read_is_refused(
        self, ten_rows: Path, source: str, split: str | None, message: str
    ) -> None:
        (ten_rows.parent / "notes.txt").write_text("x")

        with pytest.raises(DataError, match=message):
            load(PromptPlan(source=source, split=split), ten_rows.parent)
