"""The command line: entry point, help and exit codes of the commands.

Commands are declared in ``commands``; an exception becomes one line and an exit code in ``terminal.exit_codes`` alone.
"""

import atexit
import re
import sys
from collections.abc import Callable
from itertools import takewhile
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperCommand, TyperGroup

from vae_anomaly.cli import commands, commands_live, terminal
from vae_anomaly.errors import ConfigError

_EPILOG = """\b
Examples:
  vae-anomaly fit data/normal.parquet       fit, calibrate, log and register
  vae-anomaly score data/new.csv            write data/new.scores.csv
  vae-anomaly evaluate data/labelled.parquet --label-column fault
  vae-anomaly calibrate later.csv --alpha 0.001     new threshold, same model
  vae-anomaly ui                            show the runs in a browser

\b
Exit codes:
  0 done · 1 bug · 2 usage · 3 data · 4 not calibrated · 5 model
  6 missing extra · 7 output · 8 tracking server · 130 interrupted
"""


class CommandLine(TyperGroup):
    """Group of all commands; every exception leaves through ``terminal.exit_codes``."""

    def main(self, *args: Any, **extra: Any) -> NoReturn:
        """Run a command and exit with its code. ``--json`` is looked up before parsing, so that usage errors are JSON too."""
        argv = args[0] if args else extra.pop("args", None)
        words = [str(word) for word in (sys.argv[1:] if argv is None else argv)] or ["--help"]
        with terminal.exit_codes(as_json="--json" in words):
            code = super().main(words, **{"prog_name": "vae-anomaly", **extra, "standalone_mode": False})
            if code == terminal.INTERRUPTED:
                raise KeyboardInterrupt
        sys.exit(code or 0)


app = typer.Typer(
    cls=CommandLine,
    name="vae-anomaly",
    help="Anomaly detection for tables: fit an ensemble of VAEs on normal rows, flag anomalies at a chosen false-alarm rate.",
    epilog=_EPILOG,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120},
)


def main() -> None:
    """Entry point of ``vae-anomaly`` and ``python -m vae_anomaly``."""
    terminal.protect_standard_streams()
    actions: list[Callable[[], None]] = []
    # Registered first, called last: after the exit handlers of MLflow and others. Tests do not exit, and their commands get no obj.
    atexit.register(lambda: [action() for action in actions])
    try:
        app(obj=actions.append)
    finally:
        terminal.abandon_workers()


def _show_version(wanted: bool) -> None:
    if wanted:
        from vae_anomaly._version import __version__

        typer.echo(f"vae-anomaly {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    _version: Annotated[bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")] = False,
) -> None:
    pass


class GroupedHelp(TyperCommand):
    """Command whose help has one section per option panel; Typer does this only with Rich, which --help should not load.

    A list is given once: of two, click takes the last, and the names of the first would silently count for nothing.
    """

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the words of a command. Raises ConfigError for a list that is given twice."""
        names = {name: p.opts[0] for p in self.get_params(ctx) if is_list(p) for name in p.opts}
        given = [names[word] for word in (part.partition("=")[0] for part in takewhile(lambda part: part != "--", args)) if word in names]
        twice = next((name for name in given if given.count(name) > 1), None)
        if twice is not None:
            raise ConfigError(f"{twice} is given {given.count(twice)} times; give it once, with commas between the names.")
        return list(super().parse_args(ctx, args))

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the sections in the order of declaration."""
        sections: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None:
                is_argument = parameter.param_type_name == "argument"
                title = "Arguments" if is_argument else getattr(parameter, "rich_help_panel", None)
                name = record[0].split(" ")[0] if is_argument else record[0]  # without its type
                sections.setdefault(title or "Every command", []).append((name, _without_brackets(record[1])))
        for title, records in sections.items():
            with formatter.section(title):
                formatter.write_dl(records)


def is_list(parameter: Any) -> bool:
    """Whether a parameter is an option with several names in one value."""
    return "," in (getattr(parameter, "metavar", None) or "")


def _without_brackets(text: str) -> str:
    """``[default: (all cores)]`` as ``[default: all cores]``."""
    return re.sub(r"\[default: \(([^)]*)\)", r"[default: \1", text)


for _name, _command, _example in (
    ("fit", commands.fit, "data/normal.parquet --id-columns timestamp,machine_id"),
    ("score", commands.score, "data/new.csv --id-columns timestamp -o out.parquet"),
    ("follow", commands_live.follow, "plant.csv -m models:/pump-station@champion -o answers.jsonl --state pump.state"),
    ("evaluate", commands.evaluate, "data/labelled.parquet --label-column fault"),
    ("calibrate", commands.recalibrate, "later.parquet --alerts-per-day 20"),
    ("explain", commands.explain, "data/new.csv --rows 153,154 --counterfactual"),
    ("report", commands.report, "--scores data/new.scores.csv -o report.html"),
    ("info", commands.info, "models:/vae-anomaly/3"),
    ("models", commands.models, "pump-station"),
    ("upload", commands.upload, "pump-20250930013000 --alias challenger"),
    ("ui", commands.ui, "--port 5001"),
):
    app.command(_name, cls=GroupedHelp, epilog=f"\b\nExample: vae-anomaly {_name} {_example}")(_command)
