"""The cut-off of a false-discovery rate: an independent Benjamini-Hochberg over all rows, and resuming from notes."""

import math
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray

from tests import tiny
from vae_anomaly import artifact
from vae_anomaly.calibration.conformal import conditional_p_values
from vae_anomaly.detector.detector import Detector
from vae_anomaly.detector.stream import ScoredBatch, scored_batches
from vae_anomaly.jobs import score_workdir
from vae_anomaly.jobs.score_workdir import Unfinished
from vae_anomaly.schema.encoding import encode
from vae_anomaly.schema.schema import conform
from vae_anomaly.tables.source import open_source
from vae_anomaly.workflow import score_fdr, score_job
from vae_anomaly.workflow.requests import ScoreRequest
from vae_anomaly.workflow.results import Discovery
from vae_anomaly.workflow.score_job import ScoreJob

ROWS, FAR = 2000, 240
RATE = 0.2
REQUEST = {"inputs": "new.parquet"}


@pytest.fixture(scope="module")
def ground(tiny_detector: Detector, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model and 2,000 rows, 240 of them far off and one empty."""
    folder = tmp_path_factory.mktemp("ground")
    artifact.save(tiny_detector, folder / "model")
    rows = tiny.table("mixed", ROWS, seed=3).to_pylist()
    for i in range(FAR):
        rows[8 * i]["pressure"] = 9e5 + i
    rows[3] = dict.fromkeys(rows[3])
    pq.write_table(pa.Table.from_pylist(rows, schema=tiny.table("mixed", 1, seed=3).schema), folder / "new.parquet")
    return folder


def job_of(ground: Path, tell: Callable[..., None] = lambda *_: None, **changed: Any) -> ScoreJob:
    settings: dict[str, Any] = {
        "data": (str(ground / "new.parquet"),),
        "model": str(ground / "model"),
        "fdr": RATE,
        "chunk_rows": 512,
        "part_rows": 512,
    }
    return score_job.open_job(ScoreRequest(**(settings | {"output": ground / "x.parquet", "threads": 1} | changed)), tell)


def discovery(job: ScoreJob, unfinished: Unfinished, rate: float = RATE) -> Discovery:
    return score_fdr.discovery(job, open_source(job.request.data), unfinished, rate)


def p_values(ground: Path, detector: Detector, table: NDArray[np.float64] | None = None) -> NDArray[np.float64]:
    """Return the conformal p-value of every row with a score, counted one by one."""
    batch = conform(detector.schema, tiny.one_batch(pq.read_table(ground / "new.parquet")), where="the test")
    scores = detector.scores(encode(detector.schema, batch)).total.double().numpy()
    ranks = np.array([1 + int((detector.threshold.calibration >= score).sum()) for score in scores if not math.isnan(score)])
    return ranks / (len(detector.threshold.calibration) + 1) if table is None else table[ranks - 1]


def largest_rejected(p: NDArray[np.float64], rate: float) -> float | None:
    """Benjamini & Hochberg (1995), as they state it: the largest i with p_(i) ≤ rate · i / m."""
    ordered = sorted(p.tolist())
    rejected = [value for i, value in enumerate(ordered, start=1) if value * len(ordered) <= rate * i * (1 + 1e-12)]
    return rejected[-1] if rejected else None


@pytest.mark.parametrize("rate", [0.005, 0.15, 0.2, 0.6])
def test_the_cutoff_is_that_of_benjamini_and_hochberg_over_all_rows(ground: Path, tiny_detector: Detector, rate: float) -> None:
    p = p_values(ground, tiny_detector)
    assert len(p) == ROWS - 1, "the empty row has no score"
    job = job_of(ground)
    with score_workdir.claim(ground / "x.parquet") as unfinished:
        result = discovery(job, unfinished, rate)
    assert result.cutoff == largest_rejected(p, rate)
    flags = score_fdr.at_cutoff(job.threshold, result.cutoff).flags(tiny_detector.threshold.calibration)
    own = (1 + np.arange(len(flags), 0, -1)) / (len(flags) + 1)  # p-values of the calibration scores, ascending scores
    assert flags.tolist() == (own <= (result.cutoff or 0.0)).tolist()


def test_the_rates_of_the_test_above_give_different_cutoffs(ground: Path, tiny_detector: Detector) -> None:
    p = p_values(ground, tiny_detector)
    found = [largest_rejected(p, rate) for rate in (0.005, 0.15, 0.6)]
    assert found[0] is None
    assert None not in found[1:]
    assert len(set(found)) == 3


def test_conditional_p_values_have_a_cutoff_of_their_own(ground: Path, tiny_detector: Detector) -> None:
    table = conditional_p_values(len(tiny_detector.threshold.calibration))
    with score_workdir.claim(ground / "x.parquet") as unfinished:
        result = discovery(job_of(ground, p_values="conditional"), unfinished, 0.6)
    assert result.cutoff == largest_rejected(p_values(ground, tiny_detector, table), 0.6)
    assert result.cutoff in table
    assert result.statement == (
        "rule with a false-discovery rate ≤ 60 % for this calibration with 90 % confidence (independent rows, split calibration)"
    )


def test_the_statement_of_marginal_p_values(ground: Path) -> None:
    with score_workdir.claim(ground / "x.parquet") as unfinished:
        result = discovery(job_of(ground), unfinished)
    text = "rule with a false-discovery rate ≤ 20 % on average over repetitions (independent rows, split calibration)"
    assert (result.rate, result.statement) == (RATE, text)


def test_without_a_cutoff_nothing_is_flagged(tiny_detector: Detector) -> None:
    threshold = score_fdr.at_cutoff(tiny_detector.threshold, None)
    assert not threshold.flags(np.array([1e300, math.inf])).any()
    assert threshold.alpha == tiny_detector.threshold.alpha


# ── resuming ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_an_interrupted_pass_resumes_from_its_ranks(ground: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    output = ground / "x.parquet"
    with score_workdir.claim(output) as unfinished:
        straight = discovery(job_of(ground), unfinished)

    def interrupted(*arguments: Any, **named: Any) -> Iterator[ScoredBatch]:
        for number, batch in enumerate(scored_batches(*arguments, **named)):
            if number == 1:
                raise KeyboardInterrupt
            yield batch

    monkeypatch.setattr(score_fdr, "scored_batches", interrupted)
    with suppress(KeyboardInterrupt), score_workdir.claim(output) as unfinished:
        unfinished.begin(REQUEST, restart=False)
        discovery(job_of(ground), unfinished)
    monkeypatch.undo()
    told = list[tuple[str, int, int | None]]()
    with suppress(KeyboardInterrupt), score_workdir.claim(output) as unfinished:
        noted = unfinished.noted("ranks")
        assert noted is not None
        assert noted["rows"] == 1024
        assert sum(noted["counts"]) == 1023, "the empty row has no rank"
        assert discovery(job_of(ground, lambda *event: told.append(event)), unfinished) == straight
        raise KeyboardInterrupt
    assert told == [("ranking", ROWS, ROWS)], "the first 1,024 rows are not scored again"
    with score_workdir.claim(output) as unfinished:
        unfinished.note("discovery", {"rate": RATE, "cutoff": 0.125, "statement": "as noted"})
        result = discovery(job_of(ground, lambda *_: pytest.fail("no row is scored again")), unfinished)
    assert result == Discovery(rate=RATE, cutoff=0.125, statement="as noted")


def test_ranks_that_were_noted_count(ground: Path) -> None:
    """The notes are used, not recomputed: with other counts the cut-off is another one."""
    with score_workdir.claim(ground / "x.parquet") as unfinished:
        job = job_of(ground)
        counts = [0] * (len(job.threshold.calibration) + 1)
        counts[-1] = 10**9
        unfinished.note("ranks", {"rows": ROWS - 10, "counts": counts})
        assert discovery(job, unfinished).cutoff is None
