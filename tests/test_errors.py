"""The exceptions: one tree with one exit code each, documented as they are, and messages of one line."""

import re

import pytest

from vae_anomaly import errors

# Scripts that call the command line rely on these numbers.
EXIT_CODES = {
    "VaeAnomalyError": 1,
    "ConfigError": 2,
    "DataError": 3,
    "SchemaMismatch": 3,
    "BadCell": 3,
    "TooFewRows": 3,
    "NotCalibrated": 4,
    "ArtifactError": 5,
    "UnknownFormat": 5,
    "DamagedArtifact": 5,
    "MissingExtra": 6,
    "OutputError": 7,
    "TrackingError": 8,
    "Interrupted": 130,
}


def kinds() -> dict[str, type[errors.VaeAnomalyError]]:
    return {name: k for name, k in vars(errors).items() if isinstance(k, type) and issubclass(k, errors.VaeAnomalyError)}


def test_exit_codes_are_frozen() -> None:
    assert {name: kind.exit_code for name, kind in kinds().items()} == EXIT_CODES


def test_the_tree_in_the_docstring_is_the_tree_of_the_classes() -> None:
    """Names, parents by their indentation, and exit codes where they differ from those of the parent."""
    documented, parents = {}, ["VaeAnomalyError"]
    for indent, name, code in re.findall(r"^ {4}([│ ]*)[├└]── (\w+) +(\d*)", errors.__doc__ or "", re.MULTILINE):
        depth = len(indent) // 4 + 1
        parents[depth:] = [name]
        documented[name] = (parents[depth - 1], int(code) if code else kinds()[parents[depth - 1]].exit_code)
    actual = {name: (kind.__bases__[0].__name__, kind.exit_code) for name, kind in kinds().items() if name != "VaeAnomalyError"}
    assert documented == actual


@pytest.mark.parametrize(
    ("remedies", "line", "text"),
    [
        (("Correct it",), None, "column 'a' is 'x' in t.csv row 1,235 (counted from 1). Correct it."),
        (
            ("Correct it", "drop it"),
            1236,
            "column 'a' is 'x' in t.csv row 1,235 (line 1,236). Correct it, or drop it.",
        ),
        (("A", "b", "c"), None, "column 'a' is 'x' in t.csv row 1,235 (counted from 1). A, b, or c."),
    ],
)
def test_a_bad_cell_counts_rows_from_one_and_lists_the_remedies(remedies: tuple[str, ...], line: int | None, text: str) -> None:
    error = errors.BadCell("column 'a' is 'x'", where="t.csv", row=1234, remedies=list(remedies), line=line)
    assert str(error) == text
    assert (error.problem, error.where, error.row, error.remedies) == ("column 'a' is 'x'", "t.csv", 1234, remedies)
