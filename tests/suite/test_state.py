"""A suite's state file from anywhere: what is not a state is refused in one line."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from llmload.errors import ConfigError
from llmload.suite.state import STATE, SuiteState

CELL = {"status": "good", "fingerprint": "f", "started_unix_s": 1.0}


@pytest.mark.parametrize(
    "content",
    [
        *({}, {"cells": [], "starts_s": {}}, {"cells": {}, "starts_s": []}, {"cells": {"a": 1}, "starts_s": {}}),
        *({"cells": {"a": {**CELL, "run_folder": name}}, "starts_s": {}} for name in ("../x", "/etc", 3)),
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


def test_a_state_that_was_written_is_read(tmp_path: Path) -> None:
    written = SuiteState(tmp_path)
    written.begin("a", "f").run_folder = "cells/a"
    written.write()

    assert SuiteState.read(tmp_path).cells == written.cells
