"""`llmload`: its verbs, each imported when it is called, so that quick ones stay quick."""

import sys
from importlib import import_module
from typing import Any, Final

import click

from llmload.errors import ExitCode, LlmloadError
from llmload.interrupts import raise_at_sigint

VERBS: Final = {
    "demo": ("llmload.cli.engine:demo", "Try llmload on a simulated engine: speed, throughput, sizing."),
    "run": ("llmload.cli.run:run", "Run a scenario against an engine, through Locust."),
    "report": ("llmload.cli.report:report", "Show finished runs, or tables of several."),
    "compare": ("llmload.cli.compare:compare", "Compare the runs of two builds, metric by metric."),
    "suite": ("llmload.cli.suite:suite", "Measure a matrix of engines, models and protocols."),
    "vram": ("llmload.cli.vram:vram", "Size the GPU memory and the speed of a model."),
    "prompts": ("llmload.cli.prompts:prompts", "Show the prompts that a run would send."),
    "scenarios": (
        "llmload.cli.scenarios:scenarios",
        "List the scenarios that come with llmload, or begin your own.",
    ),
    "engine": ("llmload.cli.engine:engine", "Run the embedded simulated engine."),
    "dashboards": (
        "llmload.cli.dashboards:dashboards",
        "Copy the Grafana dashboard and Prometheus' rules to a folder.",
    ),
}
_HAVE_AN_END: Final = frozenset({"demo", "run", "suite", "engine"})
"""Verbs that stop what they have started, and so end by KeyboardInterrupt; the others end at once."""


class LazyGroup(click.Group):
    """A group whose verbs are imported on use; faults of the user's input end it with a line each and exit code 2."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        """Return the verbs in the order in which a user meets them."""
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - click's signature
        """Import and return the verb; None for an unknown name."""
        if cmd_name not in VERBS:
            return None
        module, _, attribute = VERBS[cmd_name][0].partition(":")
        command = getattr(import_module(module), attribute)
        if cmd_name in _HAVE_AN_END:
            raise_at_sigint()
        return command if isinstance(command, click.Command) else None

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Return the verb and what follows it; an unknown one is refused with the nearest."""
        if args[0] not in VERBS:
            raise click.NoSuchCommand(args[0], possibilities=VERBS, ctx=ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002 - click's signature
        """Write the verbs with their help, without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(verb, text) for verb, (_, text) in VERBS.items()])

    def invoke(self, ctx: click.Context) -> Any:
        """Run the verb; a fault of the user's input ends it with a line for each and exit code 2, Ctrl-C with 130."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            click.echo("llmload: interrupted", err=True)
            sys.exit(ExitCode.INTERRUPTED)
        except LlmloadError as error:
            for line in str(error).splitlines():
                click.echo(f"llmload: {line}", err=True)
            sys.exit(ExitCode.WRONG_USE)


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    epilog="Start with: llmload demo. Then: llmload run lima-speed --base-url http://127.0.0.1:8000 --model NAME",
)
@click.version_option(package_name="llmload")
def main() -> None:
    """Load tests of LLM inference deployments with Locust."""


if __name__ == "__main__":
    main()
