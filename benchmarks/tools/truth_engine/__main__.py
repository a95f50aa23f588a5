"""`python -m benchmarks.tools.truth_engine --port=8000 --gap-ms=10`: the engine in the foreground."""

import os
import sys

from benchmarks.tools.truth_engine.build import executable

if __name__ == "__main__":
    program = str(executable())
    os.execv(program, [program, *sys.argv[1:]])  # noqa: S606 - no shell is the point
