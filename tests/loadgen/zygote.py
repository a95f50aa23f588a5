"""
A process that has imported Locust and llmload already, and forks into a Locust each time that it is asked to.

A whole run of a test is often shorter than these imports. It reads requests from the socket whose number is its
argument, `{"arguments", "cwd", "env", "limits"}` with three descriptors: stdout, stderr, and where to write the fork's
process id and, when it has ended, its exit code, a line each.
"""

# Locust patches the standard library, so it is imported first.
import locust.main

import json
import os
import resource
import socket
import sys
from typing import Any

from gevent.monkey import get_original

import llmload.loadgen.users  # noqa: F401 # most of what a locustfile imports
from llmload.interrupts import BEFORE_A_RUN, end_at_signals
from llmload.report.html import page

# gevent's own wait for its loop, which does not run here
fork, waitpid, close = (get_original("os", name) for name in ("fork", "waitpid", "close"))
select = get_original("select", "select")
LONGEST_REQUEST = 1 << 18
REAP_S = 0.01


def become_locust(request: dict[str, Any], out: int, err: int) -> None:
    os.setsid()
    for source, stream in ((os.open(os.devnull, os.O_RDONLY), 0), (out, 1), (err, 2)):
        os.dup2(source, stream)
        close(source)
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["env"])
    for name, most in request["limits"].items():
        resource.setrlimit(getattr(resource, name), (most, most))
    sys.argv = ["locust", *request["arguments"]]
    sys.path.insert(0, request["cwd"])  # as `python -m` does
    end_at_signals(BEFORE_A_RUN)  # as the import does where it is Locust's
    locust.main.main()


def reap(running: dict[int, int]) -> None:
    while running:
        pid, status = waitpid(-1, os.WNOHANG)
        if not pid:
            return
        said = running.pop(pid)
        os.write(said, f"{os.waitstatus_to_exitcode(status)}\n".encode())
        close(said)


def serve(control: socket.socket) -> None:
    running: dict[int, int] = {}
    while True:
        reap(running)
        if not select([control], [], [], REAP_S if running else None)[0]:
            continue
        request, descriptors, *_ = socket.recv_fds(control, LONGEST_REQUEST, 3)
        if not request:
            return
        out, err, said = descriptors
        pid = fork()
        if pid == 0:
            control.close()
            for each in (said, *running.values()):
                close(each)
            become_locust(json.loads(request), out, err)
            sys.exit(0)
        os.write(said, f"{pid}\n".encode())
        running[pid] = said
        close(out)
        close(err)


page._ENVIRONMENT.get_template("report.html.j2")  # which each fork would compile
serve(socket.socket(fileno=int(sys.argv[1])))
