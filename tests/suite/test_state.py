"""A suite's state file from anywhere: what is not a state is refused in one line."""

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest

from llmload.errors import ConfigError
from llmload.suite.state import LOCK, STATE, FolderLock, SuiteState, refuse_links

ODD: list[Any] = [None, [], {}, -1, 1e17]
CELL = {"status": "good", "fingerprint": "f", "started_unix_s": 1.0}


@pytest.mark.parametrize(
    "content",
    [
        *({}, {"cells": [], "starts_s": {}}, {"cells": {}, "starts_s": []}, {"cells": {"a": 1}, "starts_s": {}}),
        *({"cells": {"a": {**CELL, "run_folder": name}}, "starts_s": {}} for name in ("../x", "/etc", 3)),
        *({"cells": {"a": {**CELL, key: odd}}, "starts_s": {}} for key in CELL for odd in ODD),
        *({"cells": {"a": {**CELL, key: 1}}, "starts_s": {}} for key in ("reason", "engine_version")),
        *({"cells": {}, "starts_s": {"a": odd}} for odd in ODD),
        {"cells": {"a": {**CELL, "reason": json.loads("[" * 50 + "]" * 50)}}, "starts_s": {}},
        *({"cells": {"a": {**CELL, "measured_s": "long"}}, "starts_s": {}}, {"cells": {}, "starts_s": {"a": "x"}}),
        *(
            {"cells": {"a": {**CELL, "status": "odd"}}, "starts_s": {}},
            {"cells": {"a": {**CELL, "odd": 1}}, "starts_s": {}},
        ),
    ],
)
def test_a_state_that_is_none_is_refused(tmp_path: Path, content: dict[str, Any]) -> None:
    (tmp_path / STATE).write_text(json.dumps(content))

    with pytest.raises(ConfigError, match=r"state\.json: cannot be read \(.*--restart starts from the beginning"):
        SuiteState.read(tmp_path)


def test_a_pipe_is_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / STATE)

    with pytest.raises(ConfigError, match="is a named pipe, not a file"):
        SuiteState.read(tmp_path)


@pytest.mark.parametrize("place", ["runs", "runs/e/m/p", "logs/e", "logs/e/m/engine.log", "warm-up", "state.tmp"])
@pytest.mark.parametrize("kind", ["link", "pipe"])
def test_a_suite_writes_and_removes_nothing_outside_of_its_folder(tmp_path: Path, place: str, kind: str) -> None:
    places = ["runs/e/m/p", "logs/e/m/engine.log", "warm-up/e/m", "warm-up/prompts.jsonl", "state.tmp"]
    refuse_links(tmp_path / "none", places)
    odd = tmp_path / "suite" / place
    odd.parent.mkdir(parents=True)
    refuse_links(tmp_path / "suite", places)
    if kind == "link":
        odd.symlink_to(tmp_path)
    else:
        os.mkfifo(odd)

    with pytest.raises(ConfigError, match=rf"{re.escape(str(odd))}: is .*: give another with --out"):
        refuse_links(tmp_path / "suite", places)


def test_a_lock_that_is_a_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / LOCK).symlink_to(tmp_path / "other")

    with pytest.raises(ConfigError, match=r"suite\.lock: cannot be written"), FolderLock(tmp_path):
        pass
    assert not (tmp_path / "other").exists()


def test_a_state_that_was_written_is_read(tmp_path: Path) -> None:
    written = SuiteState(tmp_path)
    written.begin("a", "f").run_folder = "cells/a"
    written.write()

    assert SuiteState.read(tmp_path).cells == written.cells
