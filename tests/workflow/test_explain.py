"""The explain verb and its command: which rows, every column, the change that ends an alarm, errors word for word."""

import json
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from tests import tiny
from tests.tiny import Case
from vae_anomaly import artifact
from vae_anomaly.cli import summaries
from vae_anomaly.cli.app import app
from vae_anomaly.detector.detector import Detector
from vae_anomaly.errors import ConfigError, DataError
from vae_anomaly.workflow.explain import explain_files
from vae_anomaly.workflow.requests import ExplainRequest
from vae_anomaly.workflow.results import CellChange, SmallestChange

CASE = Case(kind="mixed", size="several", method="split", prior="exemplar")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model and odd rows with a key."""
    folder = tmp_path_factory.mktemp("explain")
    artifact.save(tiny.detector(CASE), folder / "model")
    rows = tiny.odd_rows("mixed")
    pq.write_table(rows.append_column("key", pa.array([f"k{i}" for i in range(len(rows))])), folder / "rows.parquet", row_group_size=40)
    return folder


@pytest.fixture
def request_(place: Path) -> ExplainRequest:
    return ExplainRequest(data=(str(place / "rows.parquet"),), model=str(place / "model"), id_columns=("key",))


def test_rows_are_explained_by_their_numbers(request_: ExplainRequest) -> None:
    found = explain_files(replace(request_, rows=(tiny.HOLES, tiny.OUTLIER)))
    assert [(row.row, row.ids) for row in found.rows] == [(tiny.HOLES, {"key": "k140"}), (tiny.OUTLIER, {"key": "k3"})]
    outlier = found.rows[1]
    assert outlier.score is not None
    assert outlier.is_anomaly
    assert outlier.columns[0].column == "pressure"
    assert (outlier.columns[0].value, len(outlier.columns)) == ("900000", 9)
    assert sum(c.contribution for c in outlier.columns) == pytest.approx(outlier.score, rel=1e-9)
    assert sum(c.reconstruction for c in outlier.columns) == pytest.approx(outlier.reconstruction, rel=1e-9)
    assert sum(c.kl for c in outlier.columns) == pytest.approx(outlier.kl, rel=1e-9)
    assert all(c.contribution == c.reconstruction + c.kl for c in outlier.columns)
    assert outlier.smallest_change is None  # nobody asked
    hole = {c.column: c for c in found.rows[0].columns}
    assert (hole["flow"].value, hole["flow"].contribution) == (None, 0.0)


def test_z_is_that_of_the_detector_and_orders_columns_when_asked(request_: ExplainRequest) -> None:
    detector: Detector = tiny.detector(CASE)
    row = explain_files(replace(request_, rows=(20,), order="z")).rows[0]
    z = [c.z for c in row.columns if c.z is not None]
    assert z == sorted(z, reverse=True)
    assert [c.contribution for c in row.columns] != sorted((c.contribution for c in row.columns), reverse=True)
    assert detector.usual is not None
    flow = next(c for c in row.columns if c.column == "flow")
    assert flow.z == pytest.approx((flow.contribution - float(detector.usual.middle[0])) / float(detector.usual.spread[0]))


def test_the_worst_rows_are_those_with_the_highest_scores(request_: ExplainRequest) -> None:
    detector = tiny.detector(CASE)
    scores = detector.scores(tiny.encoded(detector.schema, tiny.odd_rows("mixed"))).total.nan_to_num(-1.0)
    expected = scores.argsort(descending=True, stable=True)[:4].tolist()
    assert [row.row for row in explain_files(replace(request_, worst=4)).rows] == expected
    assert [row.row for row in explain_files(request_).rows] == expected[:3]


def test_a_row_without_a_cell_has_no_score_and_no_reasons(request_: ExplainRequest) -> None:
    found = explain_files(replace(request_, rows=(tiny.EMPTY,), counterfactual=True))
    assert (found.rows[0].score, found.rows[0].columns, found.rows[0].smallest_change) == (None, (), None)
    assert summaries.explain_summary(found).splitlines()[2] == "Row 5, key k5: no score, because all its values are missing."


def test_what_would_end_the_alarm_of_a_level_that_was_unseen(request_: ExplainRequest, tmp_path: Path) -> None:
    rows = tiny.normal_rows("mixed").slice(0, 40)
    new = rows.set_column(rows.column_names.index("mode"), "mode", pa.array(["reverse"] * 40))
    pq.write_table(new.append_column("key", pa.array([f"k{i}" for i in range(40)])), tmp_path / "new.parquet")
    request = replace(request_, data=(str(tmp_path / "new.parquet"),), rows=tuple(range(40)), alpha=0.3, counterfactual=True)
    changes = [row.smallest_change for row in explain_files(request).rows]
    cells = [(cell.column, cell.value) for change in changes if change is not None for cell in change.cells]
    assert cells.count(("mode", "reverse (unseen)")) >= 5  # others of these rows are no alarms, or have a smaller change


def test_what_would_end_the_alarm(request_: ExplainRequest) -> None:
    found = explain_files(replace(request_, rows=(tiny.OUTLIER, 0), alpha=0.1, counterfactual=True))
    change = found.rows[0].smallest_change
    assert change is not None
    assert [(cell.column, cell.value) for cell in change.cells] == [("pressure", "900000")]
    assert change.found
    assert change.score <= found.threshold
    assert found.rows[1].smallest_change is None  # not flagged: nothing has to change
    line = summaries.explain_summary(found).splitlines()[13]
    assert line == f"  Not flagged if pressure were {change.cells[0].instead} instead of 900000 (score {change.score:.4g})."


def test_a_change_that_was_not_found_is_admitted(request_: ExplainRequest) -> None:
    found = explain_files(replace(request_, rows=(tiny.OUTLIER,)))
    none = SmallestChange(found=False, score=8.25, cells=())
    some = SmallestChange(found=False, score=8.25, cells=(CellChange(column="a", value="1", instead="2"),))
    for change, words in (
        (none, "No small change ends the alarm: no value replaced by its expected value lowers the score."),
        (some, "No small change ends the alarm: if a were 2 instead of 1, the score is still 8.25."),
    ):
        row = replace(found.rows[0], smallest_change=change)
        assert summaries.explain_summary(replace(found, rows=(row,))).splitlines()[-1] == f"  {words}"


def test_the_table_has_a_line_a_column(request_: ExplainRequest) -> None:
    lines = summaries.explain_summary(explain_files(replace(request_, rows=(tiny.OUTLIER,)))).splitlines()
    assert lines[3].split() == ["column", "value", "expected", "usual", "range", "contribution", "reconstruction", "KL", "z"]
    assert lines[4].split()[:2] == ["pressure", "900000"]
    assert len(lines) == 13


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        ({"rows": (1,), "worst": 1}, ConfigError, "--rows and --worst are two ways to say which rows; give one of them."),
        ({"rows": (3, 150)}, DataError, "there is no row 150 in {data}: it has 150 rows, numbered from 0."),
    ],
)
def test_what_cannot_be_explained(request_: ExplainRequest, change: dict[str, object], error: type[Exception], text: str) -> None:
    with pytest.raises(error) as caught:
        explain_files(replace(request_, **change))  # type: ignore[arg-type]  # fields of ExplainRequest
    assert str(caught.value) == text.format(data=request_.data[0])


def test_no_row_with_a_value(request_: ExplainRequest, tmp_path: Path) -> None:
    rows = tiny.odd_rows("mixed").slice(tiny.EMPTY, 1)
    pq.write_table(rows, tmp_path / "empty.parquet")
    with pytest.raises(DataError) as caught:
        explain_files(replace(request_, data=(str(tmp_path / "empty.parquet"),), id_columns=()))
    assert str(caught.value) == f"no row of {tmp_path / 'empty.parquet'} has a value in any column of the model."


def test_the_command_prints_text_or_one_object(place: Path) -> None:
    words = ["explain", str(place / "rows.parquet"), "-m", str(place / "model"), "--rows", "3", "--counterfactual"]
    told = CliRunner().invoke(app, words)
    assert told.exit_code == 0
    assert "Not flagged if pressure were" in told.stdout
    found = json.loads(CliRunner().invoke(app, [*words, "--json"]).stdout)
    assert found["rows"][0]["columns"][0]["column"] == "pressure"
    wrong = CliRunner().invoke(app, [*words[:5], "3;4"])
    assert (wrong.exit_code, wrong.stderr) == (2, "error: --rows must be whole numbers from 0, separated by commas; got '3;4'\n")
