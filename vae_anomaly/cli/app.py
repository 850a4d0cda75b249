"""The command line: the commands that make and use models, and behind them those of ``looking``, which change none.

Knows nothing about tables, models or tracking: the verbs are imported inside the commands, so that ``--help`` loads none of
torch, MLflow, pandas and scikit-learn. Errors become a line and an exit code in ``terminal.exit_codes`` alone.
"""

import atexit
import re
import sys
from collections.abc import Callable
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperCommand, TyperGroup

from vae_anomaly.cli import calibrate, commands, streams, terminal
from vae_anomaly.cli import options as opt
from vae_anomaly.cli import options as opt_score
from vae_anomaly.config import DEFAULT_MODEL

_EPILOG = """\b
Start:
  vae-anomaly fit data/normal.parquet          learn, calibrate, log, register
  vae-anomaly score data/new.csv               write data/new.scores.csv
  vae-anomaly calibrate later.csv --alpha 0.001    another threshold, without a fit
  vae-anomaly evaluate data/labelled.parquet --label-column fault
  vae-anomaly ui                               look at the runs in a browser

\b
Exit codes:
  0 done · 1 bug · 2 usage · 3 data · 4 not calibrated · 5 model · 6 missing extra
  7 output · 8 tracking server · 130 interrupted
"""


class Face(TyperGroup):
    """The whole command line behind one exit."""

    def main(self, *args: Any, **extra: Any) -> NoReturn:
        """Run and leave with the exit code; whether errors are printed as JSON is decided before the options are parsed."""
        given = args[0] if args else extra.pop("args", None)
        words = [str(word) for word in (sys.argv[1:] if given is None else given)] or ["--help"]
        with terminal.exit_codes(as_json="--json" in words):
            code = super().main(words, **{"prog_name": "vae-anomaly", **extra, "standalone_mode": False})
            if code == terminal.INTERRUPTED:
                raise KeyboardInterrupt
        sys.exit(code or 0)


app = typer.Typer(
    cls=Face,
    name="vae-anomaly",
    help="Learn what normal rows look like, and flag the others at a false-alarm rate you choose.",
    epilog=_EPILOG,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120},
)


def main() -> None:
    """Entry point of ``vae-anomaly`` and ``python -m vae_anomaly``."""
    streams.make_lasting()
    last: list[Callable[[], None]] = []
    # What is registered first is called last, after what MLflow and others have to end. In a test nobody ends, and commands get no obj.
    atexit.register(lambda: [act() for act in last])
    app(obj=last.append)


def _version(wanted: bool) -> None:
    if wanted:
        from vae_anomaly._version import __version__

        typer.echo(f"vae-anomaly {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    _asked: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and leave.")] = False,
) -> None:
    pass


class GroupedHelp(TyperCommand):
    """Help with the options under their headings, without the cost of Rich."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write one section a heading, in the order of the declarations."""
        sections: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None:
                title = "Arguments" if parameter.param_type_name == "argument" else getattr(parameter, "rich_help_panel", None)
                sections.setdefault(title or "Every command", []).append((record[0], _without_brackets(record[1])))
        for title, records in sections.items():
            with formatter.section(title):
                formatter.write_dl(records)


@app.command(cls=GroupedHelp, epilog="Example: vae-anomaly fit data/normal.parquet --alpha 0.001 --id-columns timestamp,machine_id")
def fit(
    context: typer.Context,
    data: opt.Data,
    *,
    label_column: opt.LabelColumn = None,
    normal_label: opt.NormalLabel = None,
    id_columns: opt.IdColumns = None,
    exclude: opt.Exclude = None,
    include: opt.Include = None,
    missing_values: opt.MissingValues = None,
    on_error: opt.OnErrorFit = None,
    time_column: opt.TimeColumn = None,
    group_by: opt.GroupBy = None,
    alpha: opt.Alpha = None,
    calibration: opt.Calibration = None,
    steps: opt.Steps = None,
    seed: opt.Seed = None,
    device: opt.Device = None,
    prior: opt.PriorOption = None,
    contamination_robust: opt.ContaminationRobust = False,
    resume: opt.Resume = None,
    checkpoint_every: opt.CheckpointEvery = None,
    memory_limit: opt.FitMemoryLimit = None,
    config: opt.ConfigFile = None,
    model_name: opt.ModelNameOption = None,
    alias: opt.Alias = None,
    experiment: opt.Experiment = None,
    tracking_uri: opt.TrackingUri = None,
    no_register: opt.NoRegister = False,
    no_tracking: opt.NoTracking = False,
    output: opt.ModelFolder = None,
    overwrite: opt.Overwrite = False,
    as_json: opt.AsJson = False,
    quiet: opt.Quiet = False,
    verbose: opt.Verbose = 0,
) -> None:
    """Learn what normal rows look like. Calibrates the threshold, logs to MLflow and registers the model."""
    terminal.set_logging(verbose, quiet=quiet)
    if memory_limit is not None:
        terminal.take_no_stock()
    from vae_anomaly.config import load_config

    data_options = {
        "label_column": label_column,
        "normal_labels": opt.names(normal_label),
        "id_columns": opt.names(id_columns),
        "exclude": opt.names(exclude),
        "include": opt.names(include),
        "missing_values": opt.names(missing_values),
        "on_error": on_error,
        "time_column": time_column,
        "group_by": group_by,
    }
    tracking = {"model_name": model_name, "alias": alias, "experiment": experiment, "uri": tracking_uri}
    switches = {"enabled": False if no_tracking else None, "register": False if no_register else None}
    overrides = {
        "data": data_options,
        "calibration": {"alpha": alpha, "method": calibration},
        "train": {"steps": steps, "device": device, "contamination_robust": contamination_robust or None},
        "model": {"prior": prior},
        "tracking": {**tracking, **switches},
        "seed": seed,
    }
    settings = load_config(config, overrides)
    from vae_anomaly.cli import summaries
    from vae_anomaly.workflow import memory_plan
    from vae_anomaly.workflow.fit import FitRequest
    from vae_anomaly.workflow.fit import fit_files as run

    request = FitRequest(
        data=tuple(data),
        config=settings,
        output=output,
        overwrite=overwrite,
        resume=resume,
        checkpoint_every=checkpoint_every,
        at_exit=context.obj,
        memory_limit=memory_plan.size_of(memory_limit),
    )
    with terminal.progress(quiet=quiet) as tell:
        result = run(request, tell=tell)
    terminal.show(result, lambda: "" if quiet else summaries.of_fit(result), as_json=as_json)


app.command(cls=GroupedHelp, epilog="Example: vae-anomaly upload pump-20250930013000 --alias challenger")(commands.upload)
app.command(
    "calibrate", cls=GroupedHelp, epilog="Example: vae-anomaly calibrate later.parquet --alerts-per-day 20 --time-column timestamp"
)(calibrate.recalibrate)


@app.command(cls=GroupedHelp, epilog="Example: vae-anomaly score data/new.csv --id-columns timestamp,machine_id -o alarms.parquet")
def score(
    data: opt.Data,
    *,
    id_columns: opt.IdColumns = None,
    missing_values: opt.MissingValues = None,
    on_error: opt.OnErrorOption = "stop",
    alpha: opt.ScoreAlpha = None,
    fdr: opt.Fdr = None,
    p_values: opt.PValues = "marginal",
    typicality: opt.Typicality = False,
    model: opt.Model = DEFAULT_MODEL,
    tracking_uri: opt.TrackingUri = None,
    output: opt_score.ScoreOutput = None,
    part_format: opt_score.PartFormat = None,
    no_escape: opt.NoEscape = False,
    overwrite: opt.Overwrite = False,
    watch: opt_score.Watch = False,
    watch_interval: opt_score.WatchInterval = 10.0,
    explain: opt.ExplainOption = "flagged",
    top: opt.Top = "5",
    chunk_rows: opt_score.ChunkRows = 65_536,
    part_rows: opt_score.PartRows = 262_144,
    threads: opt.Threads = None,
    memory_limit: opt_score.MemoryLimit = None,
    as_json: opt.AsJson = False,
    quiet: opt.Quiet = False,
    verbose: opt.Verbose = 0,
) -> None:
    """Score rows with a model. One output row per input row: score, p-value, flag, and which columns did it."""
    terminal.set_logging(verbose, quiet=quiet)
    if memory_limit is not None:
        terminal.take_no_stock()
    top_columns = opt.top_columns(top)
    from vae_anomaly.cli import summaries_scoring
    from vae_anomaly.workflow import memory_plan
    from vae_anomaly.workflow.score import score_files as run
    from vae_anomaly.workflow.score_job import ScoreRequest
    from vae_anomaly.workflow.watch import watch as run_watch

    request = ScoreRequest(
        data=tuple(data),
        model=model,
        output=output,
        format=part_format,
        id_columns=opt.names(id_columns) or (),
        missing_values=opt.names(missing_values),
        alpha=alpha,
        fdr=fdr,
        p_values=p_values,
        typicality=typicality,
        explain=explain,
        top=top_columns,
        chunk_rows=chunk_rows,
        part_rows=part_rows,
        threads=threads,
        memory_limit=memory_plan.size_of(memory_limit),
        on_error=on_error,
        escape=not no_escape,
        overwrite=overwrite,
        tracking_uri=tracking_uri,
    )
    with terminal.progress(quiet=quiet) as tell:
        if watch:
            run_watch(request, interval=watch_interval, on_part=terminal.note(summaries_scoring.of_part, quiet=quiet))
        result = run(request, tell=tell)
    terminal.show(result, lambda: "" if quiet else summaries_scoring.of_score(result), as_json=as_json)


app.command(cls=GroupedHelp, epilog="Example: vae-anomaly explain data/new.csv --rows 153,154 --counterfactual")(commands.explain)
app.command(cls=GroupedHelp, epilog="Example: vae-anomaly evaluate data/labelled.parquet --label-column fault")(commands.evaluate)
app.command(cls=GroupedHelp, epilog="Example: vae-anomaly report --scores data/new.scores.csv -o report.html")(commands.report)
app.command(cls=GroupedHelp, epilog="Example: vae-anomaly info models:/vae-anomaly/3")(commands.info)
app.command(cls=GroupedHelp, epilog="Example: vae-anomaly models pump-station")(commands.models)
app.command(cls=GroupedHelp, epilog="Example: vae-anomaly ui --port 5001")(commands.ui)


def _without_brackets(text: str) -> str:
    """``[default: (all cores)]`` as ``[default: all cores]``."""
    return re.sub(r"\[default: \(([^)]*)\)", r"[default: \1", text)
