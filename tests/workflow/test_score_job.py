"""A scoring job before any row is read: destination, rates, threshold, columns, and the input batches it would score."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pytest

from tests import tiny
from vae_anomaly import artifact
from vae_anomaly.calibration.conformal import conditional_p_values
from vae_anomaly.calibration.groups import Groups
from vae_anomaly.config import Reading
from vae_anomaly.detector.detector import Detector
from vae_anomaly.detector.stream import Rejections
from vae_anomaly.errors import ConfigError, NotCalibrated, OutputError, SchemaMismatch, VaeAnomalyError
from vae_anomaly.messages import ignore_progress
from vae_anomaly.tables.source import ROW_NUMBERS, open_source
from vae_anomaly.workflow import score_job
from vae_anomaly.workflow.requests import ScoreRequest
from vae_anomaly.workflow.score_counts import RejectLog
from vae_anomaly.workflow.score_job import ScoreJob


@pytest.fixture(scope="module")
def model(tiny_detector: Detector, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "model"
    artifact.save(tiny_detector, folder)
    return folder


def job_of(model: Path, **changed: Any) -> ScoreJob:
    return score_job.open_job(ScoreRequest(**({"data": ("new.csv",), "model": str(model)} | changed)), ignore_progress)


def refused(error: type[VaeAnomalyError], **changed: Any) -> str:
    """Open a job with a model that does not exist: what is refused is refused before loading."""
    with pytest.raises(error) as caught:
        job_of(Path("absent"), **changed)
    return str(caught.value)


# ── destination ──────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.usefixtures("own_folder")
@pytest.mark.parametrize(
    ("data", "output", "expected", "is_folder"),
    [
        (("new.csv",), None, "new.scores.csv", False),
        (("new.parquet",), None, "new.scores.parquet", False),
        (("a.csv", "b.csv"), "all.csv", "all.csv", False),
        (("a.csv", "b.csv"), "out/", "out", True),
        (("a.csv",), "out", "out", True),  # without a suffix
        (("a.csv",), "folder.csv", "folder.csv", True),  # it exists
    ],
)
def test_the_destination(data: tuple[str, ...], output: str | None, expected: str, *, is_folder: bool) -> None:
    Path("folder.csv").mkdir()
    to, into_folder = score_job.destination(ScoreRequest(data=data, model="m", output=output))
    assert (str(to), into_folder) == (expected, is_folder)


NO_NAME = "is not the name of an output, and scores are not printed; name a file or a folder with -o."


@pytest.mark.usefixtures("own_folder")
@pytest.mark.parametrize(
    ("changed", "text"),
    [
        ({"data": ("a.csv", "b.csv", "c.csv")}, "3 inputs have no common default for the output; name it with -o."),
        ({"output": "-"}, f"'-' {NO_NAME}"),
        ({"output": " "}, f"' ' {NO_NAME}"),
        ({"output": "x.csv", "format": "parquet"}, "--format parquet is for the parts in an output folder; x.csv is a csv file."),
        ({"output": "x.txt"}, "output 'x.txt' must end in .csv or .parquet, got '.txt'."),
        (
            {"output": "out/", "fdr": 0.1},
            (
                "--fdr judges all rows of a batch together, and files in an output folder are scored one by one. "
                "Name one file for all scores with -o, or flag with --alpha."
            ),
        ),
        ({"alpha": 0.0}, "--alpha must be in (0, 1); got 0."),
        ({"alpha": 1.5}, "--alpha must be in (0, 1); got 1.5."),
        ({"fdr": 1.0}, "--fdr must be in (0, 1); got 1."),
        ({"alpha": 0.1, "fdr": 0.1}, "--alpha flags at a false-alarm rate and --fdr at a false-discovery rate; give one of them."),
    ],
)
def test_what_is_refused_before_the_model_is_loaded(changed: dict[str, Any], text: str) -> None:
    assert refused(ConfigError, **changed) == text


def test_an_input_is_not_overwritten(model: Path, own_folder: Path) -> None:
    pyarrow.csv.write_csv(tiny.table("mixed", 3, seed=1), own_folder / "new.csv")
    job, source = job_of(model, output=f"file://{own_folder}/new.csv"), open_source(("new.csv",))
    with pytest.raises(OutputError) as error:
        score_job.refuse_input_as_output(job.destination, source)
    assert str(error.value) == f"{own_folder}/new.csv is itself an input; name another output with -o."
    score_job.refuse_input_as_output(job_of(model).destination, source)


# ── threshold ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_threshold_of_each_request(model: Path, tiny_detector: Detector) -> None:
    own = tiny_detector.threshold
    scores, n = np.sort(own.calibration), len(own.calibration)
    assert job_of(model).threshold.value == own.value
    # Independent calculation: the ⌈(1 − alpha)(n + 1)⌉-th smallest calibration score.
    changed = job_of(model, alpha=0.25).threshold
    assert (changed.alpha, changed.value) == (0.25, scores[int(np.ceil(0.75 * (n + 1))) - 1])
    conditional = job_of(model, p_values="conditional").threshold
    assert conditional.alpha == own.alpha
    assert conditional.table is not None
    np.testing.assert_array_equal(conditional.table, conditional_p_values(n))
    assert conditional.value > own.value, "valid with 90 % confidence instead of on average"
    assert job_of(model, p_values="conditional", alpha=0.25).threshold.alpha == 0.25
    discovering = job_of(model, p_values="conditional", fdr=0.1).threshold
    assert (discovering.value, discovering.table is not None) == (own.value, True)


def test_a_rate_that_the_calibration_does_not_support(model: Path) -> None:
    with pytest.raises(NotCalibrated, match=r"^alpha 0\.001 needs at least 999 calibration rows; this model has \d+\. "):
        job_of(model, alpha=0.001)


def test_a_discovery_rate_needs_an_exact_split_calibration(tiny_detector: Detector, tmp_path: Path) -> None:
    cross = replace(tiny_detector, threshold=replace(tiny_detector.threshold, method="cross"))
    artifact.save(cross, tmp_path / "cross")
    with pytest.raises(NotCalibrated, match=r"^--fdr needs the p-values of one exact split calibration; this model has cross-fitted ones"):
        job_of(tmp_path / "cross", fdr=0.1)


# ── what the output depends on ───────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "changed", [{"alpha": 0.2}, {"fdr": 0.2}, {"typicality": True}, {"explain": "all"}, {"top": 2}, {"id_columns": ("crew",)},
                {"missing_values": ("-",)}, {"on_error": "quarantine"}, {"escape": False}, {"p_values": "conditional"}],
    ids=lambda changed: next(iter(changed)),
)  # fmt: skip
def test_settings_change_with_the_output(model: Path, changed: dict[str, Any]) -> None:
    assert job_of(model, **changed).settings()["options"] != job_of(model).settings()["options"]


@pytest.mark.parametrize("changed", [{"chunk_rows": 7}, {"part_rows": 7}, {"threads": 3}, {"memory_limit": 2**34}, {"overwrite": True}])
def test_settings_do_not_change_with_speed_and_memory(model: Path, changed: dict[str, Any]) -> None:
    assert job_of(model, **changed).settings() == job_of(model).settings()


def test_a_discovery_rate_replaces_alpha_in_the_settings(model: Path) -> None:
    options = job_of(model, fdr=0.2).settings()["options"]
    assert (options["alpha"], options["fdr"]) == (None, 0.2)


# ── columns and rows ─────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def malformed(own_folder: Path) -> Path:
    """Twenty rows of which numbers 0, 4, 5 and 19 have a cell too many."""
    path = own_folder / "new.csv"
    pyarrow.csv.write_csv(tiny.table("mixed", 20, seed=1).append_column("key", pa.array(range(100, 120))), path)
    lines = path.read_text(encoding="utf-8").splitlines()
    for number in (0, 4, 5, 19):
        lines[number + 1] += ",1"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


@pytest.mark.parametrize("first_row", [0, 5])
def test_each_batch_has_the_rejections_up_to_its_end(model: Path, malformed: Path, first_row: int) -> None:
    job = job_of(model, on_error="skip", chunk_rows=4, id_columns=("key",))
    log = RejectLog(quarantine=None, before=Rejections())
    source = open_source((str(malformed),), Reading(on_error="skip"))
    numbers = list[int]()
    for batch in job.inputs(source, first_row, log):
        numbers += batch.rows.column(ROW_NUMBERS).to_pylist()
        assert batch.rejections.rows == sum(first_row <= bad <= numbers[-1] for bad in (0, 4, 5, 19))
        assert batch.rows.column("key").to_pylist() == [str(100 + n) for n in batch.rows.column(ROW_NUMBERS).to_pylist()]
    assert numbers == [n for n in range(first_row, 20) if n not in {0, 4, 5, 19}]
    assert log.up_to(20).rows == sum(bad >= first_row for bad in (0, 4, 5, 19))


def test_without_rejections_rows_have_no_numbers(model: Path, own_folder: Path) -> None:
    pyarrow.csv.write_csv(tiny.table("mixed", 6, seed=1), own_folder / "new.csv")
    job, source = job_of(model), open_source(("new.csv",))
    batches = list(job.inputs(source, 2, RejectLog(quarantine=None, before=Rejections())))
    assert sum(batch.rows.num_rows for batch in batches) == 4
    assert all(ROW_NUMBERS not in batch.rows.schema.names and batch.rejections == Rejections() for batch in batches)
    assert (job.options(source, 2).first_row, job.options(source, 2).row_numbers) == (2, "")


def test_the_columns_of_the_input(model: Path, own_folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = tiny.table("mixed", 6, seed=1).append_column("key", pa.array(range(6))).append_column("note", pa.array(["x"] * 6))
    pyarrow.csv.write_csv(rows, own_folder / "new.csv")
    source = open_source(("new.csv",))
    job = job_of(model, id_columns=("key",))
    ignored = score_job.check_input_columns(job, source)
    assert ignored == ("note",)
    score_job.warn(ignored, source)
    assert caplog.messages == ["ignored, because the model does not know them: 'note'"]
    pyarrow.csv.write_csv(rows.drop_columns(["flow"]), own_folder / "less.csv")
    with pytest.raises(SchemaMismatch, match="flow"):
        score_job.check_input_columns(job, open_source(("less.csv",)))


def test_the_group_column_of_the_threshold_is_needed_and_not_ignored(model: Path, own_folder: Path) -> None:
    rows = tiny.table("mixed", 6, seed=1)
    pyarrow.csv.write_csv(rows.append_column("unit", pa.array(["a"] * 6)), own_folder / "new.csv")
    pyarrow.csv.write_csv(rows.append_column("units", pa.array(["a"] * 6)), own_folder / "less.csv")
    job = job_of(model)
    code = np.zeros(len(job.threshold.calibration), dtype=np.int64)
    groups = Groups(column="unit", names=("a",), code=code, lent=np.zeros(1), values=np.array([1.0]))
    job = replace(job, threshold=replace(job.threshold, groups=groups))
    source = open_source(("new.csv",))
    assert score_job.check_input_columns(job, source) == ()
    (batch,) = job.inputs(source, 0, RejectLog(quarantine=None, before=Rejections()))
    assert batch.rows.column("unit").to_pylist() == ["a"] * 6
    with pytest.raises(SchemaMismatch, match=r"^less\.csv lacks the group column of the threshold: .*'unit'"):
        score_job.check_input_columns(job, open_source(("less.csv",)))
