"""The command ``calibrate``: its own options, parse, call the verb, print.

Knows nothing about tables or models: the verb is imported inside, so that ``--help`` loads nothing heavy.
"""

from pathlib import Path
from typing import Annotated, Literal

import typer

from vae_anomaly.cli import options as opt
from vae_anomaly.cli import terminal
from vae_anomaly.cli.options import number
from vae_anomaly.config import DEFAULT_MODEL

_FScore = Literal["f1", "f0.5", "f2"]
NewAlpha = Annotated[
    float | None,
    typer.Option("--alpha", parser=number, help="False-alarm rate: the share of normal rows that may be flagged.", metavar="RATE",
                 show_default="that of the model", rich_help_panel="Threshold"),
]  # fmt: skip
AlertsPerDay = Annotated[
    float | None,
    typer.Option(parser=number, help="False alarms a day that somebody has time for; needs a time column or --rows-per-day.",
                 metavar="N", rich_help_panel="Threshold"),
]  # fmt: skip
RowsPerDay = Annotated[
    float | None,
    typer.Option(parser=number, help="Rows that a day brings.", metavar="N", show_default="from the time column",
                 rich_help_panel="Threshold"),
]  # fmt: skip
CostFalseAlarm = Annotated[
    float | None,
    typer.Option(parser=number, help="What a false alarm costs; the threshold then makes the cost of labelled rows smallest.",
                 metavar="COST", rich_help_panel="Threshold"),
]  # fmt: skip
CostMiss = Annotated[
    float | None,
    typer.Option(parser=number, help="What a missed anomaly costs, in the same unit.", metavar="COST", rich_help_panel="Threshold"),
]
Maximize = Annotated[
    _FScore | None,
    typer.Option(help="Make F1, F0.5 (fewer false alarms) or F2 (fewer misses) of labelled rows largest.", rich_help_panel="Threshold"),
]
AnomalyRate = Annotated[
    float | None,
    typer.Option(parser=number, help="Share of rows to come that are anomalous, for --maximize and costs.", metavar="RATE",
                 show_default="that of the labelled rows", rich_help_panel="Threshold"),
]  # fmt: skip
ThresholdMethod = Annotated[
    Literal["conformal", "gpd"],
    typer.Option("--method", help="conformal: exact, as fine as 1/(rows + 1); gpd: estimated by a fitted tail, ten times finer.",
                 rich_help_panel="Threshold"),
]  # fmt: skip
PerGroup = Annotated[
    str | None,
    typer.Option("--group-by", help="Column whose groups get a threshold each; small groups borrow. '' for none.", metavar="COLUMN",
                 show_default="that of the threshold so far",
                 rich_help_panel="Threshold"),
]  # fmt: skip
CalibrationTime = Annotated[
    str | None,
    typer.Option("--time-column", help="Timestamp column that says how many rows a day brings.", metavar="COLUMN",
                 show_default="that of the fit", rich_help_panel="Data"),
]  # fmt: skip
CalibrationLabels = Annotated[
    str | None,
    typer.Option("--label-column", help="Column that says which rows are normal; the others do not calibrate, but may choose the rate.",
                 metavar="COLUMN", show_default="that of the fit, where it is there", rich_help_panel="Data"),
]  # fmt: skip
CalibratedAlias = Annotated[
    str | None,
    typer.Option("--alias", help="Alias that will point to the new version.", metavar="NAME", show_default="that of --model, or of the fit",
                 rich_help_panel="Tracking and output"),
]  # fmt: skip
CalibratedFolder = Annotated[
    Path | None,
    typer.Option("--output", "-o", help="Write the calibrated model to this folder.", metavar="DIR",
                 show_default="a model folder is replaced in place", rich_help_panel="Tracking and output"),
]  # fmt: skip


def recalibrate(
    data: opt.Data,
    *,
    alpha: NewAlpha = None,
    alerts_per_day: AlertsPerDay = None,
    rows_per_day: RowsPerDay = None,
    cost_false_alarm: CostFalseAlarm = None,
    cost_miss: CostMiss = None,
    maximize: Maximize = None,
    anomaly_rate: AnomalyRate = None,
    method: ThresholdMethod = "conformal",
    group_by: PerGroup = None,
    label_column: CalibrationLabels = None,
    normal_label: opt.NormalLabel = None,
    time_column: CalibrationTime = None,
    missing_values: opt.MissingValues = None,
    on_error: opt.OnErrorRead = "stop",
    model: opt.Model = DEFAULT_MODEL,
    alias: CalibratedAlias = None,
    output: CalibratedFolder = None,
    tracking_uri: opt.TrackingUri = None,
    threads: opt.Threads = None,
    as_json: opt.AsJson = False,
    quiet: opt.Quiet = False,
    verbose: opt.Verbose = 0,
) -> None:
    """Set a new threshold, without a fit. DATA are normal rows that the fit has not seen."""
    terminal.set_logging(verbose, quiet=quiet)
    from vae_anomaly.cli import summaries_scoring
    from vae_anomaly.workflow.calibrate import calibrate_files as run
    from vae_anomaly.workflow.calibration_rows import CalibrateRequest

    request = CalibrateRequest(
        data=tuple(data),
        model=model,
        alpha=alpha,
        alerts_per_day=alerts_per_day,
        rows_per_day=rows_per_day,
        cost_false_alarm=cost_false_alarm,
        cost_miss=cost_miss,
        maximize=maximize,
        anomaly_rate=anomaly_rate,
        method=method,
        group_by=group_by,
        time_column=time_column,
        label_column=label_column,
        normal_labels=opt.names(normal_label),
        missing_values=opt.names(missing_values),
        on_error=on_error,
        alias=alias,
        output=output,
        threads=threads,
        tracking_uri=tracking_uri,
    )
    with terminal.progress(quiet=quiet) as tell:
        result = run(request, tell=tell)
    terminal.show(result, lambda: "" if quiet else summaries_scoring.of_calibrate(result), as_json=as_json)
