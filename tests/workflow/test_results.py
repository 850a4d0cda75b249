"""The keys of ``--json`` are the field names of the results: written out here, so that none changes by accident."""

import dataclasses
from typing import Any

import pytest

from vae_anomaly.cli.terminal import jsonable
from vae_anomaly.explain.contributions import Alarm, Reason
from vae_anomaly.tracking.registry import RegisteredVersion
from vae_anomaly.workflow import results
from vae_anomaly.workflow.results import ColumnReason, ExplainResult, ModelName, ModelsResult, RowExplained

KEYS = {
    results.FitResult: (
        "active_units blocks cautions columns labels_left_out latent_units left_out model next_steps notes promise "
        "quality resumed_steps rows_read rows_used seconds steps stopped suspicious"
    ),
    results.ScoreResult: (
        "alpha counts found_events ignored_columns model next_steps output parts_before parts_made resumed_rows rows_per_second "
        "seconds table_version threshold unchanged"
    ),
    results.Counts: (
        "alarms cautions discovery expected_alarms likely_alarms missing_changes null_scores pooled_rows rejected rows "
        "top_alarms typicality unseen unseen_groups"
    ),
    results.CalibrateResult: (
        "alpha_before anomalous_rows calibration_rows choice days fit_p_value groups model next_steps null_scores promise "
        "rejected rows rows_per_day table threshold_before"
    ),
    results.EvaluateResult: "by_label cautions events model next_steps notes null_scores output promise quality rows run_id",
    results.ReportResult: "alarms bytes cautions model next_steps output rows",
    results.InfoResult: (
        "active_units blocks cautions columns created latent_units left_out model networks next_steps notes promise "
        "rounds_alike rows seed source steps stopped training_rows versions views"
    ),
    results.ModelsResult: "store versions",
    results.UiResult: "command store url",
    results.ExplainResult: "alpha model next_steps rejected rows threshold",
    results.RowExplained: "columns ids is_anomaly kl p_value reconstruction row score smallest_change",
    results.ColumnReason: "column contribution expected high kind kl low reconstruction value z",
    results.CellChange: "column instead value",
    results.SmallestChange: "cells found score",
    results.GroupRow: "lent name rows threshold",
    results.FollowResult: "alarms errors lines model output",
    results.FoundEvents: "acknowledged events is_clock output",
    results.Discovery: "cutoff rate statement",
    results.Untypical: "low rows",
    results.ModelName: "alias folder name run_id uri version",
    RegisteredVersion: "aliases created name run_id tags version",
    Alarm: "ids p_value part reasons row score",
    Reason: "column contribution expected value",
}


@pytest.mark.parametrize(("result", "keys"), KEYS.items(), ids=[result.__name__ for result in KEYS])
def test_the_keys_of_json_are_these(result: type[Any], keys: str) -> None:
    assert sorted(field.name for field in dataclasses.fields(result)) == keys.split()


def test_every_result_is_listed_frozen_and_keyword_only() -> None:
    defined = {value for value in vars(results).values() if dataclasses.is_dataclass(value) and value.__module__ == results.__name__}
    assert defined <= set(KEYS)
    for result in defined:
        assert vars(result)["__dataclass_params__"].frozen
        assert all(field.kw_only for field in dataclasses.fields(result))


def test_an_explained_row_becomes_one_flat_json_object_a_column() -> None:
    reason = ColumnReason(
        column="flow", value=None, expected="3", contribution=1.5, kind="number", reconstruction=1.0, kl=0.5, z=None, low=0.0, high=9.0
    )
    row = RowExplained(row=7, ids={"key": None}, score=1.5, columns=(reason,))
    shown = jsonable(ExplainResult(rows=(row,), alpha=0.1, threshold=2.0, model=ModelName(name="pump"), next_steps=()))
    assert shown["rows"][0]["columns"] == [
        {
            "column": "flow",
            "value": None,
            "expected": "3",
            "contribution": 1.5,
            "kind": "number",
            "reconstruction": 1.0,
            "kl": 0.5,
            "z": None,
            "low": 0.0,
            "high": 9.0,
        }
    ]
    assert (shown["rows"][0]["ids"], shown["rejected"], shown["model"]["version"]) == ({"key": None}, None, "")


def test_a_registered_version_becomes_json() -> None:
    version = RegisteredVersion(name="pump", version="3", aliases=("live",), created="2025-01-01", tags={"a": "1"}, run_id="r")
    assert jsonable(ModelsResult(store="sqlite:///x", versions=(version,))) == {
        "store": "sqlite:///x",
        "versions": [
            {"name": "pump", "version": "3", "aliases": ["live"], "created": "2025-01-01", "tags": {"a": "1"}, "run_id": "r"},
        ],
    }
