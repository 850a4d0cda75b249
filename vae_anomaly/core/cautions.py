"""What nobody should overlook about a model: where it is likely to promise more than it holds.

Knows a detector, and says each thing in one sentence: what, why it matters, what to do.
"""

from statistics import median

from vae_anomaly.core.detector import Detector
from vae_anomaly.core.report import percent

# Below this the other columns say next to nothing about a column: its faults are seen only when they are gross.
WEAK = 0.1
# Rows for each column, and rows at least, from which on a row of normal rows is dense enough to learn from.
ROWS_A_COLUMN = 10
ROWS_AT_LEAST = 200
# Alarms so unevenly spread come once in a thousand exchangeable tables.
UNEVEN = 0.001


def cautions(detector: Detector) -> tuple[str, ...]:
    """Return what to be careful about, the gravest first; empty for a model without a known weakness."""
    found = (_collapse(detector), _few_rows(detector), _uneven(detector), _weak(detector))
    return tuple(text for text in found if text)


def active_units(detector: Detector) -> float:
    """Return the latent units in use at the end of training, mean over networks."""
    blocks = detector.card.history.blocks
    return blocks[-1].active_units if blocks else 0.0


def _collapse(detector: Detector) -> str:
    """Posterior collapse (Bowman et al. 2016): the decoder does without the latent units."""
    active, latent = active_units(detector), detector.ensemble.vae.latent
    known = [q.r2 for q in detector.quality if q.r2 is not None]
    if not detector.card.history.blocks or not known:
        return ""
    if active < 1.0:
        return (
            "posterior collapse: no latent unit is in use, so the model knows each column by itself and not how columns go together. "
            "Give it more --steps; if that does not help, the columns are unrelated"
        )
    if median(known) < WEAK and len(known) > 1:
        return (
            f"near collapse: {active:.3g} of {latent} latent units are in use and half of the columns are reconstructed to less than "
            f"{percent(WEAK)}. Give it more --steps; if that does not help, the columns are unrelated"
        )
    return ""


def _few_rows(detector: Detector) -> str:
    rows, columns = detector.card.training_rows, len(detector.quality)
    need = max(ROWS_AT_LEAST, ROWS_A_COLUMN * columns)
    if rows >= need:
        return ""
    return f"few rows: {rows:,} to learn {columns:,} columns from, {need:,} are safer; the threshold holds, but more faults are missed"


def _uneven(detector: Detector) -> str:
    blocks = detector.blocks
    if blocks is None or blocks.p_value >= UNEVEN:
        return ""
    return (
        f"alarms on normal rows come in bursts: {percent(min(blocks.rates))} to {percent(max(blocks.rates))} of the rows in "
        f"{len(blocks.rates)} consecutive parts of the calibration rows, more uneven than chance (p = {blocks.p_value:.1g}). "
        "The rate holds over long spans, not for every hour"
    )


def _weak(detector: Detector) -> str:
    known = [q.r2 for q in detector.quality if q.r2 is not None]
    weak = sum(r2 < WEAK for r2 in known)
    if not known or 2 * weak <= len(known):
        return ""
    return (
        f"{weak:,} of {len(known):,} columns are hardly explained by the others: a fault in one of them is seen only when its value is "
        "far off by itself"
    )
