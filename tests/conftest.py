"""What holds for every test."""

import signal
import sys
from pathlib import Path

from hypothesis import settings

sys.path.insert(0, str(Path(__file__).parent))  # for `run_files`: tests are imported by path, not as a package

settings.register_profile("llmload", deadline=None)  # a busy machine is no failure
settings.load_profile("llmload")

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # started in the background of a script, where Ctrl-C is ignored:
    signal.signal(signal.SIGINT, signal.default_int_handler)  # what tests start would inherit it, and never end by it
