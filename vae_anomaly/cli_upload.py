"""The command ``upload``: its own options, parse, call the verb, print.

Knows nothing about models or MLflow: the verb is imported inside, so that ``--help`` loads nothing heavy.
"""

from pathlib import Path
from typing import Annotated

import typer

from vae_anomaly import options as opt
from vae_anomaly import terminal

ModelFolder = Annotated[Path, typer.Argument(help="A model folder, as fit --output writes it.", metavar="DIR", show_default=False)]
NewName = Annotated[
    str | None,
    typer.Option("--model-name", help="Name to register the model under.", metavar="NAME", show_default="that of the fit",
                 rich_help_panel="Tracking and output"),
]  # fmt: skip
NewAlias = Annotated[
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
    folder: ModelFolder,
    *,
    model_name: NewName = None,
    alias: NewAlias = None,
    experiment: NewExperiment = None,
    tracking_uri: opt.TrackingUri = None,
    no_register: opt.NoRegister = False,
    as_json: opt.AsJson = False,
    quiet: opt.Quiet = False,
    verbose: opt.Verbose = 0,
) -> None:
    """Log a model folder to MLflow and register it. For a model that was fitted while the server was away, or elsewhere."""
    terminal.set_logging(verbose, quiet=quiet)
    from vae_anomaly import summary
    from vae_anomaly.workflow.upload import UploadRequest
    from vae_anomaly.workflow.upload import upload as run

    request = UploadRequest(
        folder=folder, model_name=model_name, alias=alias, experiment=experiment, tracking_uri=tracking_uri, register=not no_register
    )
    result = run(request)
    terminal.show(result, lambda: "" if quiet else summary.of_upload(result.model, result.next_steps), as_json=as_json)
