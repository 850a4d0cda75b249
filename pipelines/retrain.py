"""Fit a challenger, evaluate it and the champion on the same labelled rows, and promote it unless it is worse.

    python pipelines/retrain.py data/normal.parquet --labelled data/labelled.parquet --label-column fault

Copy and schedule this script. It calls the verbs of ``vae_anomaly.workflow`` and moves the alias with MLflow's client. If it is killed, the
champion stays; a challenger that is worse keeps its version and its alias ``challenger``.
"""

import argparse
import sys
from dataclasses import replace
from pathlib import Path

from vae_anomaly import Config, VaeAnomalyError, load_config
from vae_anomaly.errors import ArtifactError
from vae_anomaly.workflow.evaluate import evaluate_files
from vae_anomaly.workflow.fit import fit_files
from vae_anomaly.workflow.requests import EvaluateRequest, FitRequest

CHALLENGER = "challenger"


def quality(model: str, labelled: str, label_column: str) -> float:
    """Return the average precision of a model on the labelled rows, in 0…1; it depends on the ranking only, not on the threshold."""
    request = EvaluateRequest(data=(labelled,), model=model, label_column=label_column)
    return evaluate_files(request).quality.average_precision


def champion_quality(config: Config, labelled: str, label_column: str) -> float | None:
    """Return the average precision of the model in service; None if there is none yet."""
    try:
        return quality(f"models:/{config.tracking.model_name}@{config.tracking.alias}", labelled, label_column)
    except ArtifactError:
        return None


def promote(config: Config, version: str) -> None:
    """Move the alias of the model in service to a version."""
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=config.tracking.uri, registry_uri=config.tracking.uri)
    client.set_registered_model_alias(config.tracking.model_name, config.tracking.alias, version)


def retrain(normal: list[str], labelled: str, label_column: str, config: Config, *, margin: float = 0.0) -> str:
    """Fit, compare, and promote the challenger unless it loses more than ``margin``; return one line about it."""
    before = champion_quality(config, labelled, label_column)
    challenger = fit_files(
        FitRequest(data=tuple(normal), config=replace(config, tracking=replace(config.tracking, alias=CHALLENGER)))
    ).model
    after = quality(challenger.uri, labelled, label_column)
    if before is not None and after < before - margin:
        return f"kept the champion (average precision {before:.4f}); version {challenger.version} has {after:.4f}"
    promote(config, challenger.version)
    previous = "nothing" if before is None else f"{before:.4f}"
    return f"promoted version {challenger.version}: average precision {after:.4f}, before {previous}"


def main(arguments: list[str] | None = None) -> int:
    """Run the script and return its exit code."""
    parser = argparse.ArgumentParser(description="Fit a challenger and promote it unless it is worse than the champion.")
    parser.add_argument("normal", nargs="+", help="normal rows to train on")
    parser.add_argument("--labelled", required=True, help="labelled rows to evaluate on")
    parser.add_argument("--label-column", required=True, help="column that says which of them are normal")
    parser.add_argument("--config", type=Path, help="settings, for instance pipelines/tabular.toml")
    parser.add_argument("--margin", type=float, default=0.0, help="loss of average precision that is tolerated")
    options = parser.parse_args(arguments)
    try:
        print(retrain(options.normal, options.labelled, options.label_column, load_config(options.config), margin=options.margin))
    except VaeAnomalyError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
