import re
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from tests import tiny
from tests.tiny import Case
from vae_anomaly.calibration.guarantee import guarantee_of
from vae_anomaly.detector.card import Blocks
from vae_anomaly.detector.detector import Detector
from vae_anomaly.fitting.diagnostics import active_units, cautions
from vae_anomaly.model.training import CurvePoint, History


@pytest.fixture
def sound() -> Detector:
    """Return a detector that nothing is known against."""
    detector = tiny.detector(Case(kind="mixed", size="one", method="split", prior="exemplar"))
    quality = tuple(q if q.r2 is None else replace(q, r2=0.9) for q in detector.quality)
    return replace(detector, quality=quality, card=replace(detector.card, training_rows=1000))


def _with_active(detector: Detector, units: float) -> Detector:
    block = CurvePoint(step=1, train_loss=1.0, val_reconstruction=1.0, val_kl=1.0, active_units=units)
    return replace(detector, card=replace(detector.card, history=History(blocks=(block,), steps=1, stopped="")))


def _with_r2(detector: Detector, r2: tuple[float, ...]) -> Detector:
    known = [q for q in detector.quality if q.r2 is not None]
    return replace(detector, quality=tuple(replace(q, r2=x) for q, x in zip(known, r2, strict=False)))


def test_a_sound_model_has_no_caution(sound: Detector) -> None:
    assert cautions(sound) == ()
    assert active_units(_with_active(sound, 2.5)) == 2.5


def test_caution_posterior_collapse(sound: Detector) -> None:
    assert cautions(_with_active(sound, 0.5)) == (
        (
            "posterior collapse: no latent unit is active, so the model has learned each column alone and no relation between columns. "
            "Train longer with --steps; if that does not help, the columns are unrelated"
        ),
    )


def test_caution_near_posterior_collapse(sound: Detector) -> None:
    found = cautions(_with_active(_with_r2(sound, (0.01, 0.02, 0.3)), 1.5))
    assert found[0] == (
        "near posterior collapse: 1.5 of 4 latent units are active, and less than 10 % of the variation of half of the columns is "
        "reconstructed. Train longer with --steps; if that does not help, the columns are unrelated"
    )


def test_caution_few_rows(sound: Detector) -> None:
    few = replace(sound, card=replace(sound.card, training_rows=199))
    assert cautions(few) == ("few rows: 199 training rows for 9 columns, 200 recommended; the threshold is valid, but faults are missed",)
    wide = replace(sound, quality=sound.quality * 20)
    assert cautions(wide)[0].startswith("few rows: 1,000 training rows for 180 columns, 1,800 recommended")


def test_caution_clustered_alarms(sound: Detector) -> None:
    assert cautions(replace(sound, blocks=Blocks(rates=(0.0, 0.01, 0.05), p_value=0.002))) == ()
    assert cautions(replace(sound, blocks=Blocks(rates=(0.0, 0.01, 0.05), p_value=4e-6))) == (
        (
            "alarms on normal rows are clustered: 0 % to 5 % of the rows in 3 consecutive stretches of the calibration rows, more uneven "
            "than chance (p = 4e-06). The false-alarm rate holds over long periods, not for every hour"
        ),
    )


def test_caution_columns_that_are_hardly_predictable(sound: Detector) -> None:
    assert cautions(_with_active(_with_r2(sound, (0.05, 0.5)), 3.0)) == ()
    found = cautions(_with_active(_with_r2(sound, (0.05, 0.05, 0.5)), 3.0))
    assert found[-1] == (
        "2 of 3 columns are hardly predictable from the others: a fault in one of them is detected only if its value is extreme by itself"
    )


def test_caution_rows_that_were_appended_twice() -> None:
    rows, settings = tiny.normal_rows("mixed"), tiny.config(Case(kind="mixed", size="one", method="split", prior="exemplar"))
    twice = tiny.fit(pa.concat_tables([rows, rows]), settings)
    caution = next(text for text in cautions(twice) if "copies" in text)
    assert re.match(r"\d+(\.\d)? % of the 144 calibration rows are copies of rows that the networks learned from", caution)
    assert 0.5 < twice.card.copied_rows / 144 < 0.9  # 70 % of the rows trained
    assert 0 < twice.threshold.copies < 72
    assert "distinct calibration rows" in guarantee_of(twice.threshold).statement
    later = replace(twice, card=replace(twice.card, calibrated="2025-01-01"))  # on other rows
    assert not any("copies" in text for text in cautions(later))


def test_rows_of_levels_repeat_by_themselves() -> None:
    random = np.random.default_rng(0)
    table = pa.table({name: random.choice(["a", "b", "c"], 240) for name in ("x", "y")} | {"n": random.integers(5, size=240)})
    detector = tiny.fit(table, tiny.config(Case(kind="mixed", size="one", method="split", prior="exemplar")))
    assert (detector.card.copied_rows, detector.threshold.copies) == (0, 0)
