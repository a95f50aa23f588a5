"""Names, docstrings, comments, pages and docs have none of the words below; a failure says what to write instead."""

import io
import re
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).resolve().parents[1]
CODE: Final = ("llmload", "benchmarks", "locustfiles", "tests")
PAGES: Final = ("*.js", "*.html", "*.css")
TEXT_TOKENS: Final = ("STRING", "FSTRING_MIDDLE")  # the second from Python 3.12


@dataclass(frozen=True)
class Rule:
    """A pattern, the words to use instead, a text that breaks the rule, and a similar one that does not."""

    pattern: str
    instead: str
    breaks: str
    passes: str

    @cached_property
    def regex(self) -> re.Pattern[str]:
        """The pattern; a space in it is any white space, since lines are wrapped."""
        return re.compile(self.pattern.replace(" ", r"\s+"), re.IGNORECASE)


RULES: Final = (
    Rule(r"\bwhoever\b", "the subject: the client, a worker, the user", "Whoever reads it", "Who reads it"),
    Rule(r"\banew\b", "again", "it is read anew", "a new run"),
    Rule(
        r"\b(goes|going) on\b(?! (one|a|an|the|to|both)\b)",
        "continues, during, is in progress",
        "while the run goes\n    on",
        "each goes on a line",
    ),
    Rule(r"\bso many\b", "the number, or its name", "Only so many answers", "So the many answers"),
    Rule(r"\bsteer(s|ed|ing)?\b", "master, coordinator, coordinate", "the node that steers", "the master"),
    Rule(r"\bknobs?\b", "option", "a knob of the form", "an option of the form"),
    Rule(r"\bdialects?\b", "another tool's definitions, an API's protocol", "vLLM's dialect", "vLLM's definitions"),
    Rule(
        r"\bseed (documents?|tables?|rules?|speeds?|suite|scenarios?)\b",
        "reference (`seed` is the random one)",
        "the seed document",
        "the seed of the prompts",
    ),
    Rule(
        r"\bllmload[./](swarm|wire|measure|vram|workload|monitor|engines)\b|(?<![\w./-])(swarm|wire|measure|workload)/",
        "the room's name: loadgen, client, metrics, sizing, prompts, prometheus, simulator",
        "see swarm/run.py",
        "kind = wire",
    ),
    Rule(r"\bswarms?\b", "load generator, run", "the swarm starts", "the users start"),
    Rule(r"\btold\b", "reported, sent, set", "workers are told", "workers get"),
    Rule(r"\basked for\b", "requested, wanted, or name what wants it", "what was asked for", "what was requested"),
    Rule(r"\bof (its|their) own\b", "its own ..., separate", "a file of its own", "its own file"),
    Rule(r"\bstands\b(?!-)", "is, is shown, is used", "it stands beside it", "a stand-in for the hub"),
    Rule(
        r"\b(?!there\b)\w+\W? (is|are|was|were) no\b(?! (longer|more)\b)",
        "is not a",
        "this is no number",
        "there is no number",
    ),
    Rule(r"\bpromise[sd]?\b", "objective, guarantee", "what it promises", "what it guarantees"),
    Rule(r"\bspoilt\b", "invalidated", "a spoilt step", "an invalidated step"),
    Rule(r"\b(decks?|dealt|dealers?)\b", "prompt queue, picked, shared", "the deck is dealt", "to deal with it"),
    Rule(r"\bledgers?\b", "accounts", "the ledger", "the accounts"),
    Rule(r"\bsittings?\b", "series of runs", "in one sitting", "in one series"),
    Rule(r"\b(this|that|the) very\b", "this, that", "this very chunk", "a very long chunk"),
    Rule(r"\bbe had\b", "available", "where it cannot be had", "it had to be"),
    Rule(r"\bheld against\b", "compared with", "it is held against the log", "it is held in memory"),
    Rule(
        r"\b(thereof|whereof|thence|lest|nought|whilst|ere)\b", "a plain sentence", "lest it ends", "at least it ends"
    ),
)


ANY_RULE: Final = re.compile("|".join(rule.regex.pattern for rule in RULES), re.IGNORECASE)
QUOTATIONS: Final = {
    "locust.swarm": "Locust's name of the endpoint that starts a run",
    '/swarm"': "Locust's path of that endpoint",
    '"swarm"': "Locust's path of that endpoint",
}
"""Texts that are not the project's own, each with the reason why it stays."""


@dataclass(frozen=True)
class Passage:
    """A text of the repository, and where it begins."""

    file: str
    line: int
    text: str

    def faults(self) -> Iterator[str]:
        """Yield a line for each word that is not used."""
        if not ANY_RULE.search(self.text):  # one search, since most texts pass all rules
            return
        text = self.text
        for quotation in QUOTATIONS:
            text = text.replace(quotation, " " * len(quotation))
        for rule in RULES:
            for found in rule.regex.finditer(text):
                line = self.line + text.count("\n", 0, found.start())
                yield f"{self.file}:{line}: {' '.join(found[0].split())!r}: say {rule.instead}"


@cache
def passages() -> tuple[Passage, ...]:
    """Return every text of the repository but this module's, whose rules have the words."""
    found: list[Passage] = []
    for file in sorted(
        {file for folder in CODE for file in (ROOT / folder).rglob("*.py")} - {Path(__file__).resolve()}
    ):
        found += passages_of_module(str(file.relative_to(ROOT)), file.read_text(encoding="utf-8"))
    pages = (file for folder in CODE for form in PAGES for file in (ROOT / folder).rglob(form))
    texts = [*(ROOT / "docs").rglob("*.md"), ROOT / "README.md", ROOT / "CONTRIBUTING.md"]
    for file in sorted([*(file for file in pages if "uplot" not in file.parts), *texts]):
        found.append(Passage(str(file.relative_to(ROOT)), 1, file.read_text(encoding="utf-8")))
    return tuple(found)


def passages_of_module(name: str, source: str) -> Iterator[Passage]:
    """Yield the strings of a module, each name once, and its comments, those of adjacent lines as one."""
    names: set[str] = set()
    comment, begin, last = "", 0, 0
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        line = token.start[0]
        if token.type == tokenize.COMMENT:
            if comment and line == last + 1:
                comment, last = f"{comment}\n{token.string.lstrip('#')}", line
                continue
            if comment:
                yield Passage(name, begin, comment)
            comment, begin, last = token.string.lstrip("#"), line, line
        elif tokenize.tok_name[token.type] in TEXT_TOKENS:
            yield Passage(name, line, token.string)
        elif token.type == tokenize.NAME and token.string not in names:
            names.add(token.string)
            yield Passage(name, line, token.string.replace("_", " "))
    if comment:
        yield Passage(name, begin, comment)


def test_texts_use_the_projects_words() -> None:
    faults = [fault for passage in passages() for fault in passage.faults()]

    assert not faults, "\n" + "\n".join(faults)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.breaks.split("\n")[0])
def test_a_rule_finds_its_word_and_not_a_similar_one(rule: Rule) -> None:
    assert rule.regex.search(rule.breaks)
    assert not any(other.regex.search(rule.passes) for other in RULES)


@pytest.mark.parametrize("quotation", QUOTATIONS)
def test_a_quotation_is_needed(quotation: str) -> None:
    assert any(rule.regex.search(quotation) for rule in RULES)
    assert any(quotation in passage.text for passage in passages())


def test_words_are_found_in_strings_comments_and_names_with_their_lines() -> None:
    source = '"""A run that goes\non."""\n\nx = f"{1} told"  # is read\n# anew\n\ndef the_knob(): ...\n'

    found = [fault for passage in passages_of_module("m.py", source) for fault in passage.faults()]

    assert sorted(fault.rpartition(": say")[0] for fault in found) == [
        "m.py:1: 'goes on'",
        "m.py:4: 'told'",
        "m.py:5: 'anew'",
        "m.py:7: 'knob'",
    ]
