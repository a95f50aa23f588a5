"""Locust users and hooks: the only room that knows Locust."""

from llmload.interrupts import BEFORE_A_RUN, end_at_signals, is_command

if is_command("locust") or is_command("llmload.loadgen"):  # imports take a second, and a node comes after them
    end_at_signals(BEFORE_A_RUN)
