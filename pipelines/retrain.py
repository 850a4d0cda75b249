"""Fit a challenger, hold it and the champion against the same labelled rows, and promote it unless it is worse.

    python pipelines/retrain.py data/normal.parquet --labelled data/labelled.parquet --label-column fault

A job to copy and schedule: it calls the verbs of ``vae_anomaly.workflow`` and, to move the alias, MLflow's own client. Killed at any
moment it leaves the champion as it was; a challenger that lost keeps its version and its alias ``challenger``.
"""

import argparse
import sys
from dataclasses import replace
from pathlib import Path

from vae_anomaly import Config, VaeAnomalyError, load_config
from vae_anomaly.errors import ArtifactError
from vae_anomaly.workflow.evaluate import EvaluateRequest, evaluate_files
from vae_anomaly.workflow.fit import FitRequest, fit_files

CHALLENGER = "challenger"


def quality(model: str, labelled: str, label_column: str) -> float:
    """Average precision of a model on the labelled rows, in 0…1; it counts how early the anomalies come, and needs no threshold."""
    request = EvaluateRequest(data=(labelled,), model=model, label_column=label_column)
    return evaluate_files(request).quality.average_precision


def champion_quality(config: Config, labelled: str, label_column: str) -> float | None:
    """Quality of the model in service; None where there is none yet."""
    try:
        return quality(f"models:/{config.tracking.model_name}@{config.tracking.alias}", labelled, label_column)
    except ArtifactError:
        return None


def promote(config: Config, version: str) -> None:
    """Point the alias of the model in service to a version."""
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=config.tracking.uri, registry_uri=config.tracking.uri)
    client.set_registered_model_alias(config.tracking.model_name, config.tracking.alias, version)


def retrain(normal: list[str], labelled: str, label_column: str, config: Config, *, margin: float = 0.0) -> str:
    """Fit, compare, promote when the challenger loses no more than ``margin``; return what happened in one line."""
    before = champion_quality(config, labelled, label_column)
    challenger = fit_files(
        FitRequest(data=tuple(normal), config=replace(config, tracking=replace(config.tracking, alias=CHALLENGER)))
    ).model
    after = quality(challenger.uri, labelled, label_column)
    if before is not None and after < before - margin:
        return f"kept the champion (average precision {before:.4f}); version {challenger.version} has {after:.4f}"
    promote(config, challenger.version)
    was = "nothing" if before is None else f"{before:.4f}"
    return f"promoted version {challenger.version}: average precision {after:.4f}, before {was}"


def main(words: list[str] | None = None) -> int:
    """Parse, retrain, print; return the exit code."""
    parser = argparse.ArgumentParser(description="Fit a challenger and promote it unless it is worse than the champion.")
    parser.add_argument("normal", nargs="+", help="normal rows to fit on")
    parser.add_argument("--labelled", required=True, help="labelled rows to compare on")
    parser.add_argument("--label-column", required=True, help="column that says which of them are normal")
    parser.add_argument("--config", type=Path, help="settings, for instance pipelines/tabular.toml")
    parser.add_argument("--margin", type=float, default=0.0, help="loss of average precision that still counts as equal")
    given = parser.parse_args(words)
    try:
        print(retrain(given.normal, given.labelled, given.label_column, load_config(given.config), margin=given.margin))
    except VaeAnomalyError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
