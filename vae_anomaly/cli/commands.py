"""The commands: each declares its options and calls one verb of ``workflow`` through ``run_verb``.

Verbs and summaries are imported when a command runs, so that ``--help`` loads none of torch, MLflow, pyarrow and pydantic. The parameters
of a command have the names of the fields of its request.
"""

from collections.abc import Mapping
from dataclasses import fields
from importlib import import_module
from pathlib import Path
from typing import Any

import typer

from vae_anomaly.cli import options as opt
from vae_anomaly.cli import terminal
from vae_anomaly.config import DEFAULT_MODEL, DataConfig, load_config
from vae_anomaly.jobs.process_group import processes
from vae_anomaly.workflow.requests import (
    CalibrateRequest,
    EvaluateRequest,
    ExplainRequest,
    FitRequest,
    ReportRequest,
    ScoreRequest,
    UploadRequest,
)


def run_verb(
    verb: str,
    summary: str,
    options: Mapping[str, Any],
    request_type: type | None = None,
    *,
    reports_progress: bool = True,
    summary_if_quiet: bool = False,
    without_pandas: bool = False,
    **arguments: Any,
) -> Any:
    """Call ``workflow.VERB``, or ``live.VERB``, print its result as JSON or with ``cli.SUMMARY``, and return it.

    A request is filled with the options of the same names as its fields; other ``arguments`` are passed on by name. ``without_pandas`` for
    a verb that does not ask MLflow, which needs it.
    """
    as_json, quiet = options["as_json"], options["quiet"]
    terminal.set_logging(options["verbose"], quiet=quiet)
    if options.get("memory_limit") is not None:
        terminal.limit_preallocation()
    if without_pandas:
        terminal.leave_pandas_out()
    if request_type is not None:
        arguments["request"] = _request(request_type, options)
    call = _imported(verb if verb.startswith("live.") else f"workflow.{verb}")
    with terminal.progress(quiet=quiet or not reports_progress) as on_progress:
        result = call(**arguments, tell=on_progress) if reports_progress else call(**arguments)
    terminal.show(result, lambda: "" if quiet and not summary_if_quiet else _imported(f"cli.{summary}")(result), as_json=as_json)
    return result


def _imported(path: str) -> Any:
    """Return a verb or a summary by its dotted name: what it imports must not be loaded for --help, so a command only names it."""
    module, _, name = path.rpartition(".")
    return getattr(import_module(f"vae_anomaly.{module}"), name)


def _request(request_type: Any, options: Mapping[str, Any]) -> Any:
    """Return a request; a list of the command line becomes a tuple."""
    values = {field.name: options[field.name] for field in fields(request_type)}
    return request_type(**{name: tuple(value) if isinstance(value, list) else value for name, value in values.items()})


def is_in_folder(model: str) -> bool:
    """Whether a model is a folder, for which MLflow is not asked; False for a name that no file system takes."""
    try:
        return Path(model, "manifest.json").is_file()
    except OSError:
        return False


def fit(
    context: typer.Context,
    data: opt.Data,
    *,
    label_column: opt.LabelColumn = None,
    normal_labels: opt.NormalLabels = None,
    id_columns: opt.IdColumns = None,
    exclude: opt.Exclude = None,
    include: opt.Include = None,
    missing_values: opt.MissingValues = None,
    on_error: opt.OnErrorFit = None,
    default_missing: opt.DefaultMissing = None,
    header_row: opt.HeaderRow = None,
    no_header: opt.NoHeader = None,
    skip_rows: opt.SkipRows = None,
    time_format: opt.TimeFormat = None,
    pivot: opt.Pivot = None,
    quality_column: opt.QualityColumn = None,
    good_quality: opt.GoodQuality = None,
    at: opt.At = None,
    time_column: opt.TimeColumn = None,
    group_by: opt.GroupBy = None,
    span: opt.SpanOption = None,
    max_gap: opt.MaxGap = None,
    alpha: opt.Alpha = None,
    calibration: opt.Calibration = None,
    steps: opt.Steps = None,
    seed: opt.Seed = None,
    device: opt.Device = None,
    prior: opt.PriorOption = None,
    contamination_robust: opt.ContaminationRobust = False,
    resume: opt.Resume = FitRequest.resume,
    checkpoint_every: opt.CheckpointEvery = FitRequest.checkpoint_every,
    memory_limit: opt.FitMemoryLimit = FitRequest.memory_limit,
    config: opt.ConfigFile = None,
    model_name: opt.ModelNameOption = None,
    alias: opt.Alias = None,
    experiment: opt.Experiment = None,
    tracking_uri: opt.TrackingUri = None,
    no_register: opt.NoRegister = False,
    no_tracking: opt.NoTracking = False,
    output: opt.ModelFolder = FitRequest.output,
    overwrite: opt.Overwrite = FitRequest.overwrite,
    as_json: opt.AsJson = False,
    quiet: opt.Quiet = False,
    verbose: opt.Verbose = 0,
) -> None:
    """Fit a model on normal rows. Calibrates the threshold, logs to MLflow and registers the model."""
    options = locals()
    terminal.set_logging(verbose, quiet=quiet)
    overrides = {
        "data": {field.name: options[field.name] for field in fields(DataConfig)},
        "calibration": {"alpha": alpha, "method": calibration},
        "series": {"span": span, "max_gap": max_gap},
        "train": {"steps": steps, "device": device, "contamination_robust": contamination_robust or None},
        "model.prior": prior,
        "tracking": {"model_name": model_name, "alias": alias, "experiment": experiment, "uri": tracking_uri},
        "tracking.enabled": False if no_tracking else None,
        "tracking.register": False if no_register else None,
        "seed": seed,
    }
    settings = {"config": load_config(config, overrides), "at_exit": context.obj}
    if processes()[0]:  # not the first of the processes that torchrun has started
        terminal.set_logging(verbose, quiet=quiet)
        if memory_limit is not None:
            terminal.limit_preallocation()
        _imported("workflow.fit.help_fit")(settings["config"])
        return
    untracked = not settings["config"].tracking.enabled
    run_verb("fit.fit_files", "summaries.fit_summary", options | settings, FitRequest, without_pandas=untracked)


def score(
    data: opt.Data,
    *,
    id_columns: opt.IdColumns = ScoreRequest.id_columns,
    missing_values: opt.MissingValues = ScoreRequest.missing_values,
    on_error: opt.OnErrorScore = ScoreRequest.on_error,
    default_missing: opt.DefaultMissing = ScoreRequest.default_missing,
    header_row: opt.HeaderRow = ScoreRequest.header_row,
    no_header: opt.NoHeader = ScoreRequest.no_header,
    skip_rows: opt.SkipRows = ScoreRequest.skip_rows,
    time_format: opt.TimeFormat = ScoreRequest.time_format,
    pivot: opt.Pivot = ScoreRequest.pivot,
    quality_column: opt.QualityColumn = ScoreRequest.quality_column,
    good_quality: opt.GoodQuality = ScoreRequest.good_quality,
    at: opt.At = ScoreRequest.at,
    alpha: opt.OtherAlpha = ScoreRequest.alpha,
    fdr: opt.Fdr = ScoreRequest.fdr,
    p_values: opt.PValues = ScoreRequest.p_values,
    typicality: opt.Typicality = ScoreRequest.typicality,
    model: opt.Model = DEFAULT_MODEL,
    tracking_uri: opt.TrackingUri = ScoreRequest.tracking_uri,
    output: opt.ScoreOutput = None,
    part_format: opt.PartFormat = ScoreRequest.format,
    no_escape: opt.NoEscape = not ScoreRequest.escape,
    overwrite: opt.Overwrite = ScoreRequest.overwrite,
    explain: opt.Explain = ScoreRequest.explain,
    top: opt.Top = ScoreRequest.top,
    events: opt.Events = ScoreRequest.events,
    mute: opt.MuteFile = ScoreRequest.mute,
    state: opt.StateOption = ScoreRequest.state,
    watch: opt.Watch = False,
    watch_interval: opt.WatchInterval = 10.0,
    chunk_rows: opt.ChunkRows = ScoreRequest.chunk_rows,
    part_rows: opt.PartRows = ScoreRequest.part_rows,
    threads: opt.Threads = ScoreRequest.threads,
    memory_limit: opt.MemoryLimit = ScoreRequest.memory_limit,
    as_json: opt.AsJson = False,
    quiet: opt.Quiet = False,
    verbose: opt.Verbose = 0,
) -> None:
    """Score rows with a model. Each row gets a score, a p-value, a flag, and the columns that contribute most."""
    options = locals() | {"format": part_format, "escape": not no_escape}
    in_folder = is_in_folder(model)
    if watch:  # until an interrupt or an error

        def part_line(name: str, counts: Any) -> str:
            return str(_imported("cli.summaries_scoring.watch_line")(name, counts))

        on_part = terminal.line_printer(part_line, quiet=quiet)
        run_verb(
            "watch.watch", "", options, ScoreRequest,
            reports_progress=False, without_pandas=in_folder, interval=watch_interval, on_part=on_part,
        )  # fmt: skip
    run_verb("score.score_files", "summaries_scoring.scoring_summary", options, ScoreRequest, without_pandas=in_folder)


def recalibrate(
    data: opt.Data,
    *,
    alpha: opt.OtherAlpha = CalibrateRequest.alpha,
    alerts_per_day: opt.AlertsPerDay = CalibrateRequest.alerts_per_day,
    rows_per_day: opt.RowsPerDay = CalibrateRequest.rows_per_day,
    cost_false_alarm: opt.CostFalseAlarm = CalibrateRequest.cost_false_alarm,
    cost_miss: opt.CostMiss = CalibrateRequest.cost_miss,
    maximize: opt.Maximize = CalibrateRequest.maximize,
    anomaly_rate: opt.AnomalyRate = CalibrateRequest.anomaly_rate,
    method: opt.TailOption = CalibrateRequest.method,
    group_by: opt.PerGroup = CalibrateRequest.group_by,
    label_column: opt.CalibrationLabels = CalibrateRequest.label_column,
    normal_labels: opt.NormalLabels = CalibrateRequest.normal_labels,
    time_column: opt.RateTime = CalibrateRequest.time_column,
    missing_values: opt.MissingValues = CalibrateRequest.missing_values,
    on_error: opt.OnErrorRead = CalibrateRequest.on_error,
    default_missing: opt.DefaultMissing = CalibrateRequest.default_missing,
    header_row: opt.HeaderRow = CalibrateRequest.header_row,
    no_header: opt.NoHeader = CalibrateRequest.no_header,
    skip_rows: opt.SkipRows = CalibrateRequest.skip_rows,
    time_format: opt.TimeFormat = CalibrateRequest.time_format,
    pivot: opt.Pivot = CalibrateRequest.pivot,
    quality_column: opt.QualityColumn = CalibrateRequest.quality_column,
    good_quality: opt.GoodQuality = CalibrateRequest.good_quality,
    at: opt.At = CalibrateRequest.at,
    model: opt.Model = DEFAULT_MODEL,
    alias: opt.CalibratedAlias = CalibrateRequest.alias,
    output: opt.CalibratedFolder = CalibrateRequest.output,
    tracking_uri: opt.TrackingUri = CalibrateRequest.tracking_uri,
    threads: opt.Threads = CalibrateRequest.threads,
    as_json: opt.AsJson = False,
    quiet: opt.Quiet = False,
    verbose: opt.Verbose = 0,
) -> None:
    """Set a new threshold without a new fit. DATA are normal rows that were not used for the fit."""
    run_verb("calibrate.calibrate_files", "summaries_scoring.calibrate_summary", locals(), CalibrateRequest)


def explain(
    data: opt.Data,
    *,
    rows: opt.RowNumbers = ExplainRequest.rows,
    worst: opt.WorstRows = ExplainRequest.worst,
    order: opt.Order = ExplainRequest.order,
    counterfactual: opt.CounterfactualOption = ExplainRequest.counterfactual,
    id_columns: opt.IdColumns = ExplainRequest.id_columns,
    missing_values: opt.MissingValues = ExplainRequest.missing_values,
    on_error: opt.OnErrorRead = ExplainRequest.on_error,
    default_missing: opt.DefaultMissing = ExplainRequest.default_missing,
    header_row: opt.HeaderRow = ExplainRequest.header_row,
    no_header: opt.NoHeader = ExplainRequest.no_header,
    skip_rows: opt.SkipRows = ExplainRequest.skip_rows,
    time_format: opt.TimeFormat = ExplainRequest.time_format,
    pivot: opt.Pivot = ExplainRequest.pivot,
    quality_column: opt.QualityColumn = ExplainRequest.quality_column,
    good_quality: opt.GoodQuality = ExplainRequest.good_quality,
    at: opt.At = ExplainRequest.at,
    alpha: opt.OtherAlpha = ExplainRequest.alpha,
    model: opt.Model = DEFAULT_MODEL,
    tracking_uri: opt.TrackingUri = ExplainRequest.tracking_uri,
    threads: opt.Threads = ExplainRequest.threads,
    as_json: opt.AsJson = False,
    quiet: opt.Quiet = False,
    verbose: opt.Verbose = 0,
) -> None:
    """Explain single rows in full. For every column: its value, the expected value and its contribution to the score."""
    run_verb("explain.explain_files", "summaries.explain_summary", locals(), ExplainRequest, summary_if_quiet=True)


def evaluate(
    data: opt.Data,
    *,
    label_column: opt.TrueLabels = EvaluateRequest.label_column,
    normal_labels: opt.NormalLabels = EvaluateRequest.normal_labels,
    missing_values: opt.MissingValues = EvaluateRequest.missing_values,
    on_error: opt.OnErrorRead = EvaluateRequest.on_error,
    default_missing: opt.DefaultMissing = EvaluateRequest.default_missing,
    header_row: opt.HeaderRow = EvaluateRequest.header_row,
    no_header: opt.NoHeader = EvaluateRequest.no_header,
    skip_rows: opt.SkipRows = EvaluateRequest.skip_rows,
    time_format: opt.TimeFormat = EvaluateRequest.time_format,
    pivot: opt.Pivot = EvaluateRequest.pivot,
    quality_column: opt.QualityColumn = EvaluateRequest.quality_column,
    good_quality: opt.GoodQuality = EvaluateRequest.good_quality,
    at: opt.At = EvaluateRequest.at,
    reference: opt.Reference = list(EvaluateRequest.reference),  # noqa: B006  # Typer copies it
    output: opt.EvaluateOutput = EvaluateRequest.output,
    overwrite: opt.Overwrite = EvaluateRequest.overwrite,
    no_tracking: opt.NoLogging = EvaluateRequest.no_tracking,
    model: opt.Model = DEFAULT_MODEL,
    tracking_uri: opt.TrackingUri = EvaluateRequest.tracking_uri,
    threads: opt.Threads = EvaluateRequest.threads,
    as_json: opt.AsJson = False,
    quiet: opt.Quiet = False,
    verbose: opt.Verbose = 0,
) -> None:
    """Evaluate a model on labelled rows. Ranking, detection, false alarms, and three baseline detectors on the same rows."""
    run_verb("evaluate.evaluate_files", "summaries.evaluate_summary", locals(), EvaluateRequest, summary_if_quiet=True)


def report(
    *,
    scores: opt.ScoresFile = ReportRequest.scores,
    output: opt.ReportOutput = ReportRequest.output,
    overwrite: opt.Overwrite = ReportRequest.overwrite,
    model: opt.Model = DEFAULT_MODEL,
    tracking_uri: opt.TrackingUri = ReportRequest.tracking_uri,
    as_json: opt.AsJson = False,
    quiet: opt.Quiet = False,
    verbose: opt.Verbose = 0,
) -> None:
    """Write an HTML report. What the model learned, what its threshold guarantees, and the alarms in scored rows."""
    run_verb("report.report_files", "summaries.report_summary", locals(), ReportRequest)


def info(
    model: opt.ModelArgument = DEFAULT_MODEL,
    verify: opt.Verify = False,
    tracking_uri: opt.TrackingUri = None,
    as_json: opt.AsJson = False,
    quiet: opt.Quiet = False,
    verbose: opt.Verbose = 0,
) -> None:
    """Describe a model. Columns, threshold and its guarantee, training, package versions and location."""
    run_verb(
        "models.model_info", "summaries.model_summary", locals(),
        reports_progress=False, summary_if_quiet=True, model=model, verify=verify, tracking_uri=tracking_uri,
    )  # fmt: skip


def models(
    name: opt.NameArgument = None,
    tracking_uri: opt.TrackingUri = None,
    as_json: opt.AsJson = False,
    quiet: opt.Quiet = False,
    verbose: opt.Verbose = 0,
) -> None:
    """List the registered model versions, newest first."""
    run_verb(
        "models.list_models", "summaries.versions_table", locals(),
        reports_progress=False, summary_if_quiet=True, name=name, tracking_uri=tracking_uri,
    )  # fmt: skip


def upload(
    folder: opt.UploadFolder,
    *,
    model_name: opt.UploadName = UploadRequest.model_name,
    alias: opt.UploadAlias = UploadRequest.alias,
    experiment: opt.UploadExperiment = UploadRequest.experiment,
    tracking_uri: opt.TrackingUri = UploadRequest.tracking_uri,
    no_register: opt.NoRegister = not UploadRequest.register,
    as_json: opt.AsJson = False,
    quiet: opt.Quiet = False,
    verbose: opt.Verbose = 0,
) -> None:
    """Log a model folder to MLflow and register it. For a model fitted elsewhere, or while the tracking server was down."""
    options = locals() | {"register": not no_register}
    run_verb("publish.upload_folder", "summaries.upload_summary", options, UploadRequest, reports_progress=False)


def ui(
    port: opt.Port = 5000,
    host: opt.Host = "127.0.0.1",
    tracking_uri: opt.TrackingUri = None,
    as_json: opt.AsJson = False,
    quiet: opt.Quiet = False,
    verbose: opt.Verbose = 0,
) -> None:
    """Open the MLflow UI on the tracking store. Ctrl-C stops it."""
    result = run_verb(
        "models.tracking_ui", "summaries.ui_summary", locals(),
        reports_progress=False, summary_if_quiet=True, host=host, port=port, tracking_uri=tracking_uri,
    )  # fmt: skip
    terminal.run_program(result.command, quiet=quiet)
