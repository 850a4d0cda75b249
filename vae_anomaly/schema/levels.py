"""One value, one meaning: texts that are spellings of one level, of one label or of a missing cell.

A cell reaches the model as a number, a boolean, text or bytes, as its file and its writer had it. Two spellings are one level if their
``level_key`` is the same: blanks around a text, the digits of a number and the case of a boolean do not count. Leading zeros do: ``007``
is a code, not the number 7.

A text that usually means a missing cell (``MISSING_TEXT``) is missing in a fit unless the user turns that off, in every format; later it
is missing unless the schema has it as a level.
"""

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc

from vae_anomaly.choices import MISSING_TEXT
from vae_anomaly.messages import quote
from vae_anomaly.schema.parsing import BOOLEAN_WORDS, WHOLE, is_text_type, level_key, plain_array, trimmed, unwrapped_type

# Spellings of the levels of a boolean; a column with the words of one pair only is one.
_WORDS = {word: means for means, words in BOOLEAN_WORDS.items() for word in words}
_PAIRS = (("0", "1"), ("false", "true"), ("no", "yes"))


def label_key(text: str) -> str:
    """Return the form that all spellings of one label or group share: also false is 0 and true is 1, in any case.

    >>> label_key("0.000"), label_key("FALSE"), label_key("Leak"), label_key("True")
    ('0', '0', 'Leak', '1')
    """
    key = level_key(text)
    return {"false": "0", "true": "1"}.get(key.lower(), key)


# ── in a fit ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def fitted_texts(values: pa.ChunkedArray, *, default_missing: bool) -> pa.ChunkedArray:
    """Return the texts of a column as levels, null for missing ones: blanks, and with ``default_missing`` NA, null and the like.

    Empty text is missing too, unless the column has missing cells besides; then it is a level of its own.
    """
    distinct = pc.dictionary_encode(values.combine_chunks()) if len(values) else pa.array([], pa.string()).dictionary_encode()
    texts, gone = distinct.dictionary.to_pylist(), {*(MISSING_TEXT if default_missing else ("",))}
    levels = [None if (level := fitted_level(text)) in gone else level for text in texts]
    if values.null_count and any(levels):
        levels = ["" if text == "" else level for text, level in zip(texts, levels, strict=True)]
    return pa.chunked_array([pa.array(levels, pa.string()).take(distinct.indices)])


def missing_notes(table: pa.Table, columns: Sequence[str]) -> tuple[str, ...]:
    """Return one note for each of the columns in which a fit reads texts, as ``NA`` in regions of the world, as missing cells."""
    notes = []
    for name in columns:
        if not is_text_type(unwrapped_type(table[name].type)):
            continue
        cells = pc.utf8_trim_whitespace(plain_array(table[name]))
        found = pc.value_counts(cells.filter(pc.is_in(cells, pa.array([text for text in MISSING_TEXT if text])))).to_pylist()
        shown = ", ".join(f"{entry['values']!r} ({entry['counts']:,} ×)" for entry in sorted(found, key=lambda entry: -entry["counts"]))
        if found:
            notes.append(f"column {quote(name)}: {shown} read as missing cells; --no-default-missing keeps such texts as levels")
    return tuple(notes)


def fitted_level(text: str) -> str:
    """Return the text as a level: without blanks around it, whole numbers without decimals.

    >>> fitted_level(" 2.0"), fitted_level("2.50"), fitted_level("eco ")
    ('2', '2.50', 'eco')
    """
    plain = trimmed(text)
    return level_key(plain) if WHOLE.fullmatch(plain) else plain


def boolean_pair(levels: Sequence[str]) -> tuple[str, str] | None:
    """Return the levels of a boolean that all these texts are spellings of, None if there are none.

    Both must occur, but for false and true: text that is nothing else is boolean also while it is constant.

    >>> boolean_pair(["T", "f"]), boolean_pair(["0.0", "1"]), boolean_pair(["FALSE"]), boolean_pair(["no"]), boolean_pair(["JA", "nein"])
    (('false', 'true'), ('0', '1'), ('false', 'true'), None, ('no', 'yes'))
    """
    words = {_WORDS.get(key, key) for key in (level_key(text).lower() for text in levels)}
    if words and words <= {"false", "true"} and {text.lower() for text in levels} - {"f", "t"}:
        return "false", "true"
    return next((pair for pair in _PAIRS if words == set(pair)), None)
