"""
Hold the image's lock file against known vulnerabilities: `python -m benchmarks.tools.advisories`.

The exit code is 1 where a pinned version has a known vulnerability that a release mends. Where no advisory service
answers, one line says so, and the exit code is 0.
"""

import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from pydantic import BaseModel, ValidationError

from benchmarks import ROOT

LOCK: Final = ROOT / "deploy" / "requirements.txt"
PIP_AUDIT: Final = (
    str(Path(sys.executable).parent / "pip-audit"),
    *("--no-deps", "--disable-pip", "--format=json", "--progress-spinner=off", "--timeout=5"),
)
WRONG_USE: Final = 2
"""argparse's exit code; both what is found and a service that is not reached give 1."""
ANSWER_S: Final = 8.0
"""For the answer to the first package: a network that swallows packets costs no more than this."""
ALL_S: Final = 120.0
NOT_RUN: Final = "vulnerabilities: not run: no advisory service"


class Vulnerability(BaseModel):
    """A known fault of a version, and the versions without it."""

    id: str
    fix_versions: list[str]


class Audited(BaseModel):
    """A package as pip-audit reports it; `skip_reason` where the service does not know it."""

    name: str
    version: str = ""
    vulns: list[Vulnerability] = []
    skip_reason: str | None = None


class Audit(BaseModel):
    """What pip-audit prints with `--format=json`."""

    dependencies: list[Audited]


def pins(lock: str) -> list[str]:
    """Return `name==version` of each package of a lock file."""
    return [line.split()[0] for line in lock.splitlines() if "==" in line and not line.startswith((" ", "#"))]


def ask(pinned: Sequence[str], timeout_s: float) -> Audit | None:
    """
    Return what the advisory service says of these versions; None where it did not answer, or knows none of them.

    FileNotFoundError without pip-audit, CalledProcessError where it refuses how it is called: no network does that.
    """
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
        file.write("\n".join(pinned))
        file.flush()
        command = [*PIP_AUDIT, "--requirement", file.name]
        try:
            ended = subprocess.run(command, capture_output=True, timeout=timeout_s, check=False)
            if ended.returncode == WRONG_USE:
                ended.check_returncode()
            audit = Audit.model_validate_json(ended.stdout)
        except (subprocess.TimeoutExpired, ValidationError):
            return None
    return None if all(each.skip_reason for each in audit.dependencies) else audit


def findings(audit: Audit) -> Iterator[tuple[str, bool]]:
    """Yield a line for each vulnerability, with whether a release mends it, and for each package that is not known."""
    for each in audit.dependencies:
        if each.skip_reason:
            yield f"vulnerabilities: {each.name}: not known to the advisory service", False
        for fault in each.vulns:
            mended = ", ".join(fault.fix_versions)
            remedy = f"mended in {mended}: make lock-upgrade" if mended else "no release mends it"
            yield f"vulnerabilities: {each.name} {each.version}: {fault.id}, {remedy}", bool(mended)


def main(lock: Path = LOCK) -> int:
    """Print what is known of the versions of a lock file; return the exit code."""
    pinned = pins(lock.read_text(encoding="utf-8"))
    audit = ask(pinned, ALL_S) if ask(pinned[:1], ANSWER_S) else None
    if audit is None:
        print(NOT_RUN)
        return 0
    found = list(findings(audit))
    for line, _ in found:
        print(line)
    print(f"vulnerabilities: {len(pinned)} packages looked up, {len(found)} findings")
    return int(any(mended for _, mended in found))


if __name__ == "__main__":
    sys.exit(main())
