"""Prompts for the clients that read them from a file, each different so that no cache has it."""

import json
from pathlib import Path

from benchmarks.tools.load_client import Task


def write_prompts(task: Task) -> Path:
    """Write the task's prompts as JSON Lines of OpenAI messages, and return the file."""
    file = task.folder / "prompts.jsonl"
    with file.open("w", encoding="utf-8") as lines:
        for number in range(task.work.prompts or task.requests):
            text = f"Prompt {number}:" + " word" * task.work.prompt_words
            lines.write(json.dumps({"messages": [{"role": "user", "content": text}]}) + "\n")
    return file
