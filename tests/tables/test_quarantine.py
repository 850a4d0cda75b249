"""The quarantine file: its bytes, resuming at a checkpoint, and what is left of an earlier job."""

import csv
from pathlib import Path

import pytest

from vae_anomaly.errors import OutputError
from vae_anomaly.tables.csv_rejects import Rejected
from vae_anomaly.tables.quarantine import COLUMNS, QUARANTINE, Quarantine, quarantine_path


def rejected(number: int, text: str = "1,2", reason: str = "2 cells, expected 3 as in the header") -> Rejected:
    return Rejected(number=number, file="in/x.csv", row=number + 1, reason=reason, text=text)


def opened(tmp_path: Path, size: int = 0, *, escape: bool = True) -> Quarantine:
    (tmp_path / "work").mkdir(exist_ok=True)
    return Quarantine(tmp_path / "out.csv", tmp_path / "work", size=size, escape=escape)


def rows(path: Path) -> list[list[str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.reader(file))


def test_rows_are_read_back_below_a_header(tmp_path: Path) -> None:
    quarantine = opened(tmp_path)
    texts = ["1,2", 'a "quoted" cell', "two\nlines", "-5"]
    for i, text in enumerate(texts):
        quarantine.add(rejected(i, text))
    assert quarantine.finish() == quarantine_path(tmp_path / "out.csv") == tmp_path / "out.csv.quarantine.csv"
    reason = "2 cells, expected 3 as in the header"
    expected = [[str(i), "in/x.csv", str(i + 1), reason, text] for i, text in enumerate(texts)]
    assert rows(tmp_path / "out.csv.quarantine.csv") == [list(COLUMNS), *expected]
    assert list((tmp_path / "work").iterdir()) == []


@pytest.mark.parametrize("escape", [True, False])
def test_texts_are_escaped_for_spreadsheets_unless_told_otherwise(tmp_path: Path, *, escape: bool) -> None:
    quarantine = opened(tmp_path, escape=escape)
    quarantine.add(rejected(0, "=1+1", reason="@reason"))
    quarantine.finish()
    mark = "'" if escape else ""
    assert rows(tmp_path / "out.csv.quarantine.csv")[1] == ["0", "in/x.csv", "1", f"{mark}@reason", f"{mark}=1+1"]


def test_a_resumed_job_goes_on_at_the_size_of_its_checkpoint(tmp_path: Path) -> None:
    whole = opened(tmp_path)
    for i in range(3):
        whole.add(rejected(i))
    whole.finish()
    expected = (tmp_path / "out.csv.quarantine.csv").read_bytes()
    killed = opened(tmp_path)
    killed.add(rejected(0))
    killed.sync()
    checkpoint = killed.size
    killed.add(rejected(7, text="written after the checkpoint" * 10))
    killed.close()
    resumed = opened(tmp_path, checkpoint)
    for i in (1, 2):
        resumed.add(rejected(i))
    resumed.finish()
    assert (tmp_path / "out.csv.quarantine.csv").read_bytes() == expected
    assert resumed.size == len(expected)


def test_synced_rows_are_in_the_file(tmp_path: Path) -> None:
    quarantine = opened(tmp_path)
    quarantine.add(rejected(0))
    quarantine.sync()
    assert (tmp_path / "work" / QUARANTINE).stat().st_size == quarantine.size > 0
    quarantine.close()


def test_without_rows_there_is_no_file_and_that_of_an_earlier_job_goes(tmp_path: Path) -> None:
    (tmp_path / "out.csv.quarantine.csv").write_text("old")
    assert opened(tmp_path).finish() is None
    assert not (tmp_path / "out.csv.quarantine.csv").exists()


def test_a_missing_folder_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(OutputError) as caught:
        Quarantine(tmp_path / "out.csv", tmp_path / "gone", size=0, escape=True)
    assert str(caught.value).startswith(f"{tmp_path}/out.csv.quarantine.csv cannot be written: ")
    assert "\n" not in str(caught.value)
