"""The command line: one module a verb."""

from llmload.interrupts import end_at_signals, is_command

if is_command("llmload") or is_command("llmload.cli.main"):
    end_at_signals()
