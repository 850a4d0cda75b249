from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from vae_anomaly.config import Reading
from vae_anomaly.errors import BadCell
from vae_anomaly.tables.error_location import with_location
from vae_anomaly.tables.source import Source, open_source

ERROR = BadCell("column 'a' must be finite but is inf", where="the training rows", row=0, remedies=("Correct it",))


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Source:
    """Return three good rows of Parquet, then five of CSV between two bad ones and a blank line."""
    monkeypatch.chdir(tmp_path)
    pq.write_table(pa.table({"a": [1.0, 2.0, 3.0], "b": [0, 0, 0]}), "1.parquet")
    Path("2.csv").write_text("a,b\n1,1\n1\n2,2\n\n3,3\n1,2,3\n4,4\n5,5\n", encoding="utf-8")
    return open_source(["1.parquet", "2.csv"], Reading(on_error="skip"))


@pytest.mark.parametrize(
    ("number", "place"),
    [
        (2, "1.parquet row 3 (counted from 1)"),
        (3, "2.csv row 1 (line 2)"),
        (4, "2.csv row 3 (line 4)"),
        (5, "2.csv row 4 (line 6)"),
        (6, "2.csv row 6 (line 8)"),
        (7, "2.csv row 7 (line 9)"),
    ],
)
def test_a_readable_row_is_found_in_its_file(source: Source, number: int, place: str) -> None:
    located = with_location(ERROR, source.readers, number, readable=True)
    assert str(located) == f"column 'a' must be finite but is inf in {place}. Correct it."


@pytest.mark.parametrize(
    ("number", "place"), [(2, "1.parquet row 3 (counted from 1)"), (5, "2.csv row 3 (line 4)"), (9, "2.csv row 7 (line 9)")]
)
def test_a_row_among_all_is_found_in_its_file(source: Source, number: int, place: str) -> None:
    assert f" is inf in {place}. " in str(with_location(ERROR, source.readers, number, readable=False))


def test_an_error_about_a_row_in_no_file_is_returned_unchanged(source: Source) -> None:
    assert str(with_location(ERROR, source.readers, 8, readable=True)) == (
        "column 'a' must be finite but is inf in the training rows row 1 (counted from 1). Correct it."
    )
