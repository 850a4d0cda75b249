"""The commands that use a model and change none: explain, evaluate, report, info, models, ui.

Parse, call one verb, print what it returned. Verbs are imported inside the commands, so that ``--help`` stays fast.
"""

from pathlib import Path
from typing import Annotated

import typer

from vae_anomaly.cli import options as opt
from vae_anomaly.cli import terminal
from vae_anomaly.config import DEFAULT_MODEL


def explain(
    data: opt.Data,
    *,
    rows: opt.RowNumbers = None,
    worst: opt.WorstRows = None,
    order: opt.OrderOption = "contribution",
    counterfactual: opt.CounterfactualOption = False,
    id_columns: opt.IdColumns = None,
    missing_values: opt.MissingValues = None,
    on_error: opt.OnErrorRead = "stop",
    alpha: opt.ScoreAlpha = None,
    model: opt.Model = DEFAULT_MODEL,
    tracking_uri: opt.TrackingUri = None,
    threads: opt.Threads = None,
    as_json: opt.AsJson = False,
    quiet: opt.Quiet = False,
    verbose: opt.Verbose = 0,
) -> None:
    """Explain single rows in full. Every column's value, what was expected there, and what it adds to the score."""
    terminal.set_logging(verbose, quiet=quiet)
    numbers = opt.row_numbers(rows)
    from vae_anomaly.cli import summaries
    from vae_anomaly.workflow.explain import ExplainRequest
    from vae_anomaly.workflow.explain import explain_files as run

    request = ExplainRequest(
        data=tuple(data),
        model=model,
        rows=numbers,
        worst=worst,
        id_columns=opt.names(id_columns) or (),
        missing_values=opt.names(missing_values),
        on_error=on_error,
        alpha=alpha,
        order=order,
        counterfactual=counterfactual,
        threads=threads,
        tracking_uri=tracking_uri,
    )
    with terminal.progress(quiet=quiet) as tell:
        result = run(request, tell=tell)
    terminal.show(result, lambda: summaries.of_explain(result), as_json=as_json)


def evaluate(
    data: opt.Data,
    *,
    label_column: opt.NeededLabelColumn = None,
    normal_label: opt.NormalLabel = None,
    missing_values: opt.MissingValues = None,
    on_error: opt.OnErrorRead = "stop",
    reference: opt.Reference = None,
    output: opt.EvaluateOutput = None,
    overwrite: opt.Overwrite = False,
    no_tracking: opt.LogNothing = False,
    model: opt.Model = DEFAULT_MODEL,
    tracking_uri: opt.TrackingUri = None,
    threads: opt.Threads = None,
    as_json: opt.AsJson = False,
    quiet: opt.Quiet = False,
    verbose: opt.Verbose = 0,
) -> None:
    """Hold a model against labels. Ranking, detection, false alarms, and three other detectors on the same rows."""
    terminal.set_logging(verbose, quiet=quiet)
    from vae_anomaly.cli import summaries
    from vae_anomaly.workflow.evaluate import EvaluateRequest
    from vae_anomaly.workflow.evaluate import evaluate_files as run

    request = EvaluateRequest(
        data=tuple(data),
        model=model,
        label_column=label_column,
        normal_labels=opt.names(normal_label),
        missing_values=opt.names(missing_values),
        on_error=on_error,
        reference=tuple(reference or ()),
        output=output,
        overwrite=overwrite,
        no_tracking=no_tracking,
        threads=threads,
        tracking_uri=tracking_uri,
    )
    with terminal.progress(quiet=quiet) as tell:
        result = run(request, tell=tell)
    terminal.show(result, lambda: summaries.of_evaluate(result), as_json=as_json)


def report(
    *,
    scores: opt.ScoresFile = None,
    output: opt.ReportOutput = Path("report.html"),
    overwrite: opt.Overwrite = False,
    model: opt.Model = DEFAULT_MODEL,
    tracking_uri: opt.TrackingUri = None,
    as_json: opt.AsJson = False,
    quiet: opt.Quiet = False,
    verbose: opt.Verbose = 0,
) -> None:
    """Write a report as one page. What the model learnt, what its threshold promises, and what it found."""
    terminal.set_logging(verbose, quiet=quiet)
    from vae_anomaly.cli import summaries
    from vae_anomaly.workflow.report import ReportRequest
    from vae_anomaly.workflow.report import report_files as run

    request = ReportRequest(model=model, output=output, scores=scores, overwrite=overwrite, tracking_uri=tracking_uri)
    with terminal.progress(quiet=quiet) as tell:
        result = run(request, tell=tell)
    terminal.show(result, lambda: "" if quiet else summaries.of_report(result), as_json=as_json)


def info(
    model: Annotated[str, typer.Argument(help="models:/NAME@ALIAS, models:/NAME/VERSION, runs:/… or a folder.")] = DEFAULT_MODEL,
    tracking_uri: opt.TrackingUri = None,
    as_json: opt.AsJson = False,
    quiet: opt.Quiet = False,
    verbose: opt.Verbose = 0,
) -> None:
    """Show what is in a model. Columns, the threshold and its promise, training, versions, and where it lies."""
    terminal.set_logging(verbose, quiet=quiet)
    from vae_anomaly.cli import summaries
    from vae_anomaly.workflow.models import model_info as run

    result = run(model, tracking_uri=tracking_uri)
    terminal.show(result, lambda: summaries.of_info(result), as_json=as_json)


def models(
    name: Annotated[str | None, typer.Argument(help="Only versions of this registered model.", show_default="all models")] = None,
    tracking_uri: opt.TrackingUri = None,
    as_json: opt.AsJson = False,
    quiet: opt.Quiet = False,
    verbose: opt.Verbose = 0,
) -> None:
    """List the registered versions, newest first."""
    terminal.set_logging(verbose, quiet=quiet)
    from vae_anomaly.cli import summaries
    from vae_anomaly.workflow.models import list_models as run

    result = run(name, tracking_uri=tracking_uri)
    terminal.show(result, lambda: summaries.of_models(result), as_json=as_json)


def ui(
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port on this machine.", metavar="N", rich_help_panel="Running")] = 5000,
    host: Annotated[
        str,
        typer.Option(
            help="Address to listen on; the default is reachable from this machine only.", metavar="ADDRESS", rich_help_panel="Running"
        ),
    ] = "127.0.0.1",
    tracking_uri: opt.TrackingUri = None,
    as_json: opt.AsJson = False,
    quiet: opt.Quiet = False,
    verbose: opt.Verbose = 0,
) -> None:
    """Open the MLflow UI on the store that fit logs to. Ctrl-C stops it."""
    terminal.set_logging(verbose, quiet=quiet)
    from vae_anomaly.cli import summaries
    from vae_anomaly.workflow.models import tracking_ui as run

    result = run(host=host, port=port, tracking_uri=tracking_uri)
    terminal.show(result, lambda: summaries.of_ui(result), as_json=as_json)
    terminal.hand_over(result.command, quiet=quiet)


UploadFolder = Annotated[Path, typer.Argument(help="A model folder, as fit --output writes it.", metavar="DIR", show_default=False)]
NewName = Annotated[
    str | None,
    typer.Option("--model-name", help="Name to register the model under.", metavar="NAME", show_default="that of the fit",
                 rich_help_panel="Tracking and output"),
]  # fmt: skip
UploadedAlias = Annotated[
    str | None,
    typer.Option("--alias", help="Alias that will point to the new version.", metavar="NAME", show_default="that of the fit",
                 rich_help_panel="Tracking and output"),
]  # fmt: skip
NewExperiment = Annotated[
    str | None,
    typer.Option("--experiment", help="MLflow experiment of the run.", metavar="NAME", show_default="that of the fit",
                 rich_help_panel="Tracking and output"),
]  # fmt: skip


def upload(
    folder: UploadFolder,
    *,
    model_name: NewName = None,
    alias: UploadedAlias = None,
    experiment: NewExperiment = None,
    tracking_uri: opt.TrackingUri = None,
    no_register: opt.NoRegister = False,
    as_json: opt.AsJson = False,
    quiet: opt.Quiet = False,
    verbose: opt.Verbose = 0,
) -> None:
    """Log a model folder to MLflow and register it. For a model that was fitted while the server was away, or elsewhere."""
    terminal.set_logging(verbose, quiet=quiet)
    from vae_anomaly.cli import summaries
    from vae_anomaly.workflow.publish import UploadRequest
    from vae_anomaly.workflow.publish import upload_folder as run

    request = UploadRequest(
        folder=folder, model_name=model_name, alias=alias, experiment=experiment, tracking_uri=tracking_uri, register=not no_register
    )
    result = run(request)
    terminal.show(result, lambda: "" if quiet else summaries.of_upload(result.model, result.next_steps), as_json=as_json)
