"""Columns that look like labels: spelt like one (anomaly, fault, Class, isFraud, Störung) and with the few values of one.

A label among the inputs makes every evaluation meaningless, and rows without it cannot be scored. Neither the name nor the values alone
decide: ``fault_current`` is a measurement, and a column of 0 and 1 may be a valve.
"""

import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import pyarrow as pa
import pyarrow.compute as pc

from vae_anomaly import messages
from vae_anomaly.schema import parsing

Spelling = Literal["anomaly", "class", "state"]

LOOKS_LIKE_LABEL = "looks like a label"  # beginning of the reason for leaving a column out
MOST_VALUES = 50  # of a label; attack types and fault numbers are few dozen
ROWS_A_VALUE = 5  # at least, so that a table of a few rows has no label by chance
DOMINANT = 0.55  # share of the most frequent value from which on two coded values are no balanced classes

# Parts of a word that mean an anomaly in English, German, French, Spanish and Italian; accents and umlauts are spelt out.
_ANOMALY = re.compile(
    "anomal|outlier|fault|failure|attack|fraud|changepoint|intrusion|malfunction|abnormal|defect|malware|stoerung|stoermeldung|fehler"
    "|ausfall|defekt|ausreisser|angriff|defaut|defaillance|averia|guasto|alarm|groundtruth"
)
_NO_ANOMALY = re.compile("default")
_ANOMALY_WORDS = {
    "fail",
    "failed",
    "fails",
    "error",
    "errors",
    "nok",
    "incident",
    "breakdown",
    "leak",
    "leakage",
    "panne",
    "fallo",
    "alerte",
}
_ANOMALY_PAIRS = ({"change", "point"}, {"ground", "truth"}, {"att", "flag"})
_CLASS_WORDS = {
    "class", "classes", "classe", "klasse", "clase", "label", "labels", "etikett", "etiquette", "etiqueta", "target", "targets", "ziel",
    "zielgroesse", "zielvariable", "cible", "truth", "gt", "diagnosis", "diagnose", "verdict", "outcome",
}  # fmt: skip
_STATE_WORDS = {"status", "state", "zustand", "etat", "estado", "stato", "condition", "result", "ergebnis", "health"}
_NORMAL_NAMES = {"normal", "healthy", "ok"}
_FILLERS = {"is", "flag", "row", "sample", "true"}
# Words that name a measurement or a setting beside the word for an anomaly: fault_current, alarm_temp_limit, failure_count.
_MEASURES = re.compile(
    "limit|threshold|setpoint|setting|count|counter|total|rate|ratio|temp|temperature?|temperatur|pressure|current|voltage|power|speed|flow"
    "|level|time|date|hours?|minutes?|seconds?|days?|duration|delay|age|distance|hysteresis|score|prob|probability|percent|pct|strom|zahl"
    "|anzahl|grenze|grenzwert|zeit|dauer|druck|sp"
)
_MEASURE_END = re.compile("(limit|threshold|count|current|strom|zahl|grenzwert|zeit|dauer|temperatur)$")
_NORMAL_VALUE = re.compile(
    r"normal|benign|healthy|ok|good|nominal|negative?|none|no|n|false|f|0|clean|regular|legit(imate)?|intact|inlier|pass(ed)?|i\.?o"
    r"|(no|ohne|kein|keine|sans|sin)[ _-]?(fault|failure|anomaly|attack|defect|error|fehler|stoerung|defekt|defaut)s?"
    r"|(fault|failure|defect|error|anomaly)[ _-]?free|in ordnung|gut|gesund|sain|sano"
)
_ANOMALY_VALUE = re.compile(
    "anomal|outlier|fault|fail|attack|abnormal|broken|defect|error|nok|n\\.?i\\.?o|sick|malign|fraud|damage|fehler|stoerung|defekt|alarm"
    "|unhealthy|critical|leak"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class LikelyLabel:
    """Why a column looks like a label, as words that continue its name; ``certain`` enough to leave it out, else a caution."""

    words: str
    certain: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class _Values:
    """The distinct values of a column as texts, most frequent first, their share of the rows, and their numbers if all are whole."""

    texts: tuple[str, ...]
    shares: tuple[float, ...]
    numbers: tuple[int, ...]

    @property
    def normal(self) -> bool:
        """Whether one of the values is a word for normal, 0 or false; single letters count in a pair only."""
        pair = len(self.texts) <= 2  # noqa: PLR2004  # a pair
        return any(_NORMAL_VALUE.fullmatch(text) and (pair or len(text) > 1 or text == "0") for text in map(_folded, self.texts))

    @property
    def anomalous(self) -> bool:
        """Whether one of the values is a word for an anomaly."""
        return any(_ANOMALY_VALUE.search(text) and not _NORMAL_VALUE.fullmatch(text) for text in map(_folded, self.texts))

    @property
    def codes(self) -> bool:
        """Whether all values are whole numbers close together, as the numbers of classes are."""
        return bool(self.numbers) and max(self.numbers) - min(self.numbers) <= 2 * len(self.numbers)

    def words(self) -> str:
        """Return the values as words: the most frequent one and its share, then the others."""
        shown = [messages.quote(text) if text else "missing" for text in self.texts[:2]]
        first, others = f"{shown[0]} in {messages.percent(self.shares[0])} of the rows", len(self.texts) - 1
        if not others:
            return first
        return f"{first}, else {shown[1]}" if others == 1 else f"{first}, and {others:,} other values"


def likely_label(name: str, values: pa.ChunkedArray) -> LikelyLabel | None:
    """Return why a column looks like a label by its name and its values, None if it does not.

    >>> likely_label("isFraud", pa.chunked_array([[0] * 97 + [1] * 3]))
    LikelyLabel(words="'0' in 97 % of the rows, else '1'", certain=True)
    """
    spelling = label_spelling(name)
    if spelling is None:
        return None
    found = _few_values(values)
    if found is None or (_is_measure(name) and set(found.numbers) != {0, 1} and not _is_boolean(values)):
        return None
    if name.strip().lower() == "y" and len(found.texts) != 2:  # noqa: PLR2004  # else a coordinate
        return None
    certain = _CERTAIN[spelling](found)
    return None if certain is None else LikelyLabel(words=found.words(), certain=certain)


def label_spelling(name: str) -> Spelling | None:
    """Return how a name is spelt like a label: as an anomaly, a class or a state; None if it is not.

    >>> label_spelling("Pump1_Störung"), label_spelling("target"), label_spelling("flow"), label_spelling("defaultValue")
    ('anomaly', 'class', None, None)
    """
    words = _name_words(name)
    if any(_ANOMALY.search(word) and not _NO_ANOMALY.search(word) for word in words):
        return "anomaly"
    if _ANOMALY_WORDS & words or any(pair <= words for pair in _ANOMALY_PAIRS):
        return "anomaly"
    whole = words - _FILLERS
    if _CLASS_WORDS & words or whole == {"y"} or (words != whole and whole and whole <= _NORMAL_NAMES) or whole == {"normal"}:
        return "class"
    return "state" if _STATE_WORDS & words else None


def _is_measure(name: str) -> bool:
    return any(_MEASURES.fullmatch(word) or _MEASURE_END.search(word) for word in _name_words(name))


def _is_boolean(values: pa.ChunkedArray) -> bool:
    return bool(pa.types.is_boolean(parsing.unwrapped_type(values.type)))


def _name_words(name: str) -> set[str]:
    """Return the words of a name in lower case: split at blanks, marks, digits and capitals."""
    split = re.sub(r"(?<=[a-zäöüß0-9])(?=[A-ZÄÖÜ])|(?<=[A-Z])(?=[A-Z][a-z])", " ", unicodedata.normalize("NFC", name))
    return {word for word in re.split(r"[^a-z]+", _folded(split)) if word}


def _folded(text: str) -> str:
    """Return text in lower case, umlauts spelt out, without accents, blanks at the ends and a full stop.

    >>> _folded("Störung "), _folded("Défaut"), _folded("normal.")
    ('stoerung', 'defaut', 'normal')
    """
    spelt = unicodedata.normalize("NFC", text).casefold()
    for umlaut, letters in (("ä", "ae"), ("ö", "oe"), ("ü", "ue")):
        spelt = spelt.replace(umlaut, letters)
    plain = "".join(c for c in unicodedata.normalize("NFD", spelt) if not unicodedata.combining(c))
    return plain.strip().rstrip(".")


def _few_values(values: pa.ChunkedArray) -> _Values | None:
    """Return the values of a column that has few of them for its rows, None for another or one of a type that cannot be a label."""
    kind = parsing.unwrapped_type(values.type)
    if pa.types.is_nested(kind) or pa.types.is_temporal(kind):
        return None
    plain = parsing.readable_text(parsing.supported(values))
    counted = pa.Table.from_struct_array(pc.value_counts(plain)).sort_by([("counts", "descending")]) if len(plain) else None
    if counted is None or not 0 < len(counted) <= MOST_VALUES or len(counted) > max(2, len(plain) / ROWS_A_VALUE):
        return None
    cells = [_text(cell) for cell in counted["values"].to_pylist()]
    if not any(cells):
        return None
    return _Values(
        texts=tuple(cells),
        shares=tuple(count / len(plain) for count in counted["counts"].to_pylist()),
        numbers=_whole(cell for cell in cells if cell),
    )


def _text(cell: object) -> str:
    """Return a cell as text, empty if it is missing; 1.0 and ``Decimal("1.0")`` are '1'."""
    if cell is None or cell != cell:  # noqa: PLR0124  # only NaN differs from itself
        return ""
    text = str(cell).strip()
    return text.lower() if isinstance(cell, bool) else re.sub(r"^(-?\d+)\.0+$", r"\1", text)


def _whole(texts: Iterator[str]) -> tuple[int, ...]:
    """Return the numbers that the texts are, empty if one is no whole number of at most nine digits."""
    found: Sequence[str] = list(texts)
    return tuple(map(int, found)) if all(re.fullmatch(r"[+-]?\d{1,9}", text) for text in found) else ()


def _certain_anomaly(values: _Values) -> bool | None:
    """Judge the values of a column spelt like an anomaly: any few words, or numbers that are codes or around 0 and 1."""
    if len(values.texts) == 1:
        return True if values.normal or values.numbers in {(1,), (-1,)} else None
    if not values.numbers:
        return True if not _are_numbers(values.texts) else None
    return True if values.codes or {0, 1} & set(values.numbers) else None


def _certain_class(values: _Values) -> bool | None:
    """Judge the values of a column named class, label or target, which may as well be a class of products: then a caution."""
    if len(values.texts) == 1:
        return True if values.normal else None
    if not values.codes and (values.numbers or _are_numbers(values.texts)):
        return None
    if len(values.texts) == 2 and (values.codes or values.normal):  # noqa: PLR2004  # a pair
        return values.shares[0] >= DOMINANT
    return values.normal and not values.numbers


def _certain_state(values: _Values) -> bool | None:
    """Judge the values of a column named status or condition: words for normal and for anomalies, a caution where one is for normal."""
    said = set(map(_folded, values.texts)) - {"false", "no", "n", "f", "none", ""}
    words = any(_NORMAL_VALUE.fullmatch(text) for text in said)
    return values.anomalous if words and len(values.texts) > 1 and not values.numbers else None


def _are_numbers(texts: Sequence[str]) -> bool:
    return all(re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", text.lower()) for text in texts if text)


_CERTAIN = {"anomaly": _certain_anomaly, "class": _certain_class, "state": _certain_state}
