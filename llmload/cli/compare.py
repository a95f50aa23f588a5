"""`llmload compare`: is one build worse than another?"""

import sys
from pathlib import Path
from typing import Any, Final

import click

from llmload.errors import ExitCode

EXIT_CODES: Final = {
    "PASS": ExitCode.GOOD,
    "FAIL": ExitCode.FAILED,
    "INCONCLUSIVE": ExitCode.INCONCLUSIVE,
    "not judged": ExitCode.INCONCLUSIVE,
}
TO: Final = "--to"


class _WithSides(click.Command):
    """Takes all folders after `--to` as the candidate's, however many a shell's pattern gives."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Replace `--to` by a word that cannot be a path, so that it keeps its position among the folders."""
        return super().parse_args(ctx, ["\0to" if word == TO else word for word in args])


@click.command(cls=_WithSides)
@click.argument("folders", nargs=-1, required=True, metavar="BASE... [--to] CAND...")
@click.option(
    "--threshold",
    "thresholds",
    multiple=True,
    metavar="METRIC=SHARE",
    help="Accepted worsening: ttft_s.p95=5%, tpot_s=3% (all its statistics), all=2%.",
)
@click.option("--only", multiple=True, metavar="METRIC", help="Judge only this metric; may be given several times.")
@click.option("--allow", multiple=True, metavar="KEY", help="Compare although this differs; the error names the key.")
@click.option(
    "--config", type=click.Path(path_type=Path), help="TOML file with a table [compare] or [tool.llmload.compare]."
)
@click.option("--json", "as_json", is_flag=True, help="Print the comparison as JSON.")
@click.option("--junit", type=click.Path(dir_okay=False, path_type=Path), help="Write JUnit XML for a CI system.")
@click.option("--markdown", type=click.Path(dir_okay=False, path_type=Path), help="Write a summary in Markdown.")
def compare(
    folders: tuple[str, ...],
    *,
    thresholds: tuple[str, ...],
    only: tuple[str, ...],
    allow: tuple[str, ...],
    config: Path | None,
    as_json: bool,
    junit: Path | None,
    markdown: Path | None,
) -> None:
    """
    Judge whether the candidate's runs are worse than the base's, metric by metric: PASS, FAIL or INCONCLUSIVE.

    BASE and CAND are folders of runs or of repeated runs. Runs that did not measure the same thing are refused.

    Exit codes: 0 PASS; 1 FAIL; 2 wrong use or refused; 4 INCONCLUSIVE.

    \b
    Examples:
      llmload compare runs/base runs/candidate
      llmload compare runs/base-* --to runs/candidate-*
      llmload compare runs/base runs/candidate --threshold ttft_s.p95=5% --threshold requests_per_min=1%
      llmload compare runs/base runs/candidate --only tpot_s.mean --only requests_per_min
      llmload compare runs/vllm runs/tgi --allow api --json
      llmload compare runs/base runs/candidate --junit compare.xml --markdown compare.md
    """
    from llmload.compare.comparison import compare as compare_samples
    from llmload.compare.runs import check_comparable, read_comparison_request, read_run, same_prompts
    from llmload.runs.folder import runs_in

    base, candidate = ([read_run(run) for path in side for run in runs_in(path)] for side in _sides(folders))
    asked = read_comparison_request(config, candidate[0].manifest.scenario.compare, thresholds, only, allow)
    notes = check_comparable(base, candidate, asked.allow)
    comparison = compare_samples(
        [run.sample() for run in base],
        [run.sample() for run in candidate],
        paired=same_prompts(base, candidate),
        thresholds=asked.thresholds,
        required=asked.required,
        metrics=asked.metrics,
    )
    _show(comparison, base, candidate, notes, as_json=as_json, junit=junit, markdown=markdown)
    sys.exit(EXIT_CODES[comparison.outcome.value])


def _sides(words: tuple[str, ...]) -> tuple[list[Path], list[Path]]:
    paths = list(words)
    if paths.count("\0to") > 1:
        raise click.UsageError("--to is given once, between the base's runs and the candidate's")
    if "\0to" in paths:
        index = paths.index("\0to")
        base, candidate = paths[:index], paths[index + 1 :]
    elif len(paths) == 2:
        base, candidate = paths[:1], paths[1:]
    else:
        raise click.UsageError(f"{len(paths)} folders: give BASE and CAND, or several of each as BASE... --to CAND...")
    if not base or not candidate:
        raise click.UsageError("--to needs the base's runs before it and the candidate's after it")
    return [Path(path) for path in base], [Path(path) for path in candidate]


def _show(
    comparison: Any,
    base: Any,
    candidate: Any,
    notes: list[str],
    *,
    as_json: bool,
    junit: Path | None,
    markdown: Path | None,
) -> None:
    from llmload.compare import text as tables
    from llmload.report.checks import Suite, write_junit
    from llmload.report.markdown import write_page
    from llmload.report.terminal import console

    if as_json:
        import orjson

        content = {
            **comparison.to_dict(),
            "base": [str(run.folder.path) for run in base],
            "candidate": [str(run.folder.path) for run in candidate],
            "notes": notes,
        }
        click.echo(orjson.dumps(content, option=orjson.OPT_INDENT_2).decode())
    else:
        console().print(tables.comparison_report(comparison, base, candidate, notes))
    if junit is not None:
        write_junit(junit, [Suite(name="compare", checks=tables.comparison_checks(comparison))])
    if markdown is not None:
        write_page(markdown, tables.comparison_markdown(comparison, base, candidate, notes))
