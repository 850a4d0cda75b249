from dataclasses import replace

import pytest

from tests import tiny
from tests.tiny import Case
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


def test_collapse_is_said(sound: Detector) -> None:
    assert cautions(_with_active(sound, 0.5)) == (
        (
            "posterior collapse: no latent unit is in use, so the model knows each column by itself and not how columns go together. "
            "Give it more --steps; if that does not help, the columns are unrelated"
        ),
    )


def test_what_is_nearly_a_collapse_is_said(sound: Detector) -> None:
    found = cautions(_with_active(_with_r2(sound, (0.01, 0.02, 0.3)), 1.5))
    assert found[0] == (
        "near collapse: 1.5 of 4 latent units are in use and half of the columns are reconstructed to less than 10 %. "
        "Give it more --steps; if that does not help, the columns are unrelated"
    )


def test_few_rows_are_said(sound: Detector) -> None:
    few = replace(sound, card=replace(sound.card, training_rows=199))
    assert cautions(few) == ("few rows: 199 to learn 9 columns from, 200 are safer; the threshold holds, but more faults are missed",)
    wide = replace(sound, quality=sound.quality * 20)
    assert cautions(wide)[0].startswith("few rows: 1,000 to learn 180 columns from, 1,800 are safer")


def test_bursts_are_said(sound: Detector) -> None:
    assert cautions(replace(sound, blocks=Blocks(rates=(0.0, 0.01, 0.05), p_value=0.002))) == ()
    assert cautions(replace(sound, blocks=Blocks(rates=(0.0, 0.01, 0.05), p_value=4e-6))) == (
        (
            "alarms on normal rows come in bursts: 0 % to 5 % of the rows in 3 consecutive parts of the calibration rows, more uneven than "
            "chance (p = 4e-06). The rate holds over long spans, not for every hour"
        ),
    )


def test_weak_columns_are_said_when_they_are_most(sound: Detector) -> None:
    assert cautions(_with_active(_with_r2(sound, (0.05, 0.5)), 3.0)) == ()
    found = cautions(_with_active(_with_r2(sound, (0.05, 0.05, 0.5)), 3.0))
    assert found[-1] == (
        "2 of 3 columns are hardly explained by the others: a fault in one of them is seen only when its value is far off by itself"
    )
