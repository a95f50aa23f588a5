"""
A process that has imported Locust and llmload already, and forks into a Locust each time that it is asked to.

A whole run of a test is often shorter than these imports. It reads a request a line on stdin, `{"arguments", "cwd",
"env", "out", "err"}`, and answers with the fork's process id, then with its exit code, a line each.
"""

# Locust patches the standard library, so it is imported first.
import locust.main

import json
import os
import sys
from typing import Any

from gevent.monkey import get_original

fork, waitpid = get_original("os", "fork"), get_original("os", "waitpid")


def become_locust(request: dict[str, Any]) -> None:
    os.setsid()
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for path, stream in ((request["out"], 1), (request["err"], 2)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), stream)
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["env"])
    sys.argv = ["locust", *request["arguments"]]
    sys.path.insert(0, request["cwd"])  # as `python -m` does
    locust.main.main()


def say(number: int) -> None:
    sys.stdout.write(f"{number}\n")
    sys.stdout.flush()


for line in iter(sys.stdin.readline, ""):
    pid = fork()
    if pid == 0:
        become_locust(json.loads(line))
        sys.exit(0)
    say(pid)
    say(os.waitstatus_to_exitcode(waitpid(pid, 0)[1]))
