"""Loading is a good guest in Locust's process: quick, silent, no cache left behind, at home with gevent and fork."""

import os
import subprocess
import sys
import time
from pathlib import Path

LOAD = """
import sys
from pathlib import Path
from llmload.prompts.workload import PromptPlan, load
workload = load(PromptPlan(source=sys.argv[1], n_shot=1), Path())
"""
MONKEY = "import gevent.monkey; gevent.monkey.patch_all()\n"
NO_NETWORK = """
import sys

def refuse(event, _):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname"):
        raise SystemExit(f"went to the network: {event}")

sys.addaudithook(refuse)
"""
FORK = """
import os, threading
assert threading.active_count() == 1, threading.enumerate()
child = os.fork()
if not child:
    again = load(PromptPlan(source=sys.argv[1], n_shot=1), Path())
    os._exit(0 if again == workload else 1)
assert os.waitpid(child, 0)[1] == 0
"""


def run(script: str, source: Path, home: Path, *python: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    return subprocess.run(
        [sys.executable, *python, "-c", script, str(source)],
        env=kept | {"HOME": str(home), "XDG_CACHE_HOME": str(home / "cache")},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def test_loads_silently_after_gevents_patching_and_leaves_nothing_behind(ten_rows: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()

    done = run(MONKEY + LOAD, ten_rows, home, "-W", "error")

    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert list(home.rglob("*")) == []


def test_local_files_are_loaded_without_going_to_the_network(ten_rows: Path, tmp_path: Path) -> None:
    done = run(NO_NETWORK + LOAD, ten_rows, tmp_path)

    assert done.returncode == 0, done.stderr


def test_a_process_forked_after_loading_loads_the_same(ten_rows: Path, tmp_path: Path) -> None:
    done = run(LOAD + FORK, ten_rows, tmp_path)

    assert done.returncode == 0, done.stderr


def test_a_plan_imports_no_heavy_library(ten_rows: Path, tmp_path: Path) -> None:
    script = """
import sys
import llmload.prompts.workload
heavy = {"datasets", "huggingface_hub", "pandas", "pyarrow", "numpy"} & sys.modules.keys()
assert not heavy, heavy
"""
    done = run(script, ten_rows, tmp_path)

    assert done.returncode == 0, done.stderr


def test_loading_takes_under_two_seconds_of_processor_time_imports_included(ten_rows: Path, tmp_path: Path) -> None:
    before = os.times()
    began_s = time.monotonic()

    assert run(LOAD, ten_rows, tmp_path).returncode == 0

    after = os.times()
    used_s = after.children_user + after.children_system - before.children_user - before.children_system
    assert min(used_s, time.monotonic() - began_s) < 2
