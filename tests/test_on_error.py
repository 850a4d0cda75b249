"""``--on-error``: rows that cannot be read stop a verb, are left out, or go to a side file; the others are as if those were not there."""

import csv
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import pytest
from pyarrow import feather

from tests.cli import test_app
from tests.cli.test_app import files, run
from tests.tiny import Case, detector, table
from tests.workflow.test_score_output_resume import killed
from vae_anomaly import artifact
from vae_anomaly.choices import OnError
from vae_anomaly.config import Reading
from vae_anomaly.errors import DataError, OutputError
from vae_anomaly.tables.csv_rejects import RejectedRows
from vae_anomaly.tables.source import Source, open_source
from vae_anomaly.workflow.requests import ScoreRequest
from vae_anomaly.workflow.score import score_files

GOOD = 60
# Where bad rows stand, what they are (of a row with these cells), and what is said of them.
BAD: dict[int, tuple[str, str]] = {
    0: ("1,2", "2 cells, expected 10 as in the header"),
    7: ("{flow},{pressure},n/a,{celsius},{mode},{open},{rated},{crew},{site},{key}", "column 'power' is numeric in this model but 'n/a'"),
    8: ("{row},more", "11 cells, expected 10 as in the header"),
    21: ("{flow},-inf,{power},{celsius},{mode},{open},{rated},{crew},{site},{key}", "column 'pressure' must be finite but is -inf"),
    22: ("\xff{row}", "column 'flow' is not utf-8 text"),
    23: ('"{row}', "text follows a closing quote"),
    66: ('x,"no end', "a quote is opened and never closed"),
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("on-error") / "model"
    artifact.save(detector(Case(kind="mixed", size="one", method="split", prior="exemplar")), folder)
    return folder


@pytest.fixture(autouse=True)
def _inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def lines(rows: int = GOOD, *, seed: int = 5) -> list[bytes]:
    """A header and good rows, without line ends; the key has a line end in quotes now and then, and every fifth row an anomaly."""
    made = table("mixed", rows, seed=seed).to_pylist()
    for i, row in enumerate(made):
        row["key"] = f"kü{i}\n" if i % 9 == 4 else f"k{i}"
        row["pressure"] = 9e5 + i if i % 5 == 2 else row["pressure"]
    sink = pa.BufferOutputStream()
    pacsv.write_csv(pa.Table.from_pylist(made), sink)
    found = re.findall(rb'(?:"[^"]*"|[^"\n])+', sink.getvalue().to_pybytes())
    assert len(found) == rows + 1
    return [found[0].replace(b'"', b""), *found[1:]]


def with_bad(good: list[bytes]) -> tuple[list[bytes], list[int]]:
    """Put the bad rows of ``BAD`` among good ones; returns the lines and the numbers of the good rows."""
    header, *rows = good
    names = header.decode().split(",")
    mixed, numbers, waiting = [header], [], iter(rows)
    for number in range(len(rows) + len(BAD)):
        if number in BAD:
            cells = dict(zip(names, rows[3].decode().split(","), strict=True))
            mixed.append(BAD[number][0].format(row=rows[3].decode(), **cells).encode("latin-1"))
        else:
            mixed.append(next(waiting))
            numbers.append(number)
    return mixed, numbers


def put(path: str, content: list[bytes]) -> str:
    Path(path).write_bytes(b"\n".join(content) + b"\n")
    return path


def asked(model: Path, data: str | tuple[str, ...], output: str = "out.csv", **more: Any) -> ScoreRequest:
    data = (data,) if isinstance(data, str) else data
    return ScoreRequest(data=data, model=str(model), output=Path(output), alpha=0.1, threads=1, **more)


def side(output: str = "out.csv") -> list[list[str]]:
    with Path(f"{output}.quarantine.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.reader(file))


# ── score ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_rows_around_quarantined_ones_are_scored_as_without_them(model: Path) -> None:
    good = lines()
    mixed, numbers = with_bad(good)
    score_files(asked(model, put("good.csv", good), "good.parquet"))
    result = score_files(asked(model, put("mixed.csv", mixed), "mixed.parquet", on_error="quarantine"))
    alone, among = pq.read_table("good.parquet"), pq.read_table("mixed.parquet")
    assert among["row"].to_pylist() == numbers
    assert among.drop_columns("row").equals(alone.drop_columns("row"))
    assert [alarm.row for alarm in result.counts.top_alarms] == [
        numbers[alarm.row] for alarm in score_files(asked(model, "good.csv", "again.parquet")).counts.top_alarms
    ]
    place = "mixed.csv row 1: 2 cells, expected 10 as in the header"
    assert result.counts.rejected == RejectedRows(rows=len(BAD), first=place, quarantine="mixed.parquet.quarantine.csv")
    header, *rows = side("mixed.parquet")
    assert header == ["row", "file", "row_in_file", "reason", "text"]
    assert [(int(row), file, int(place), reason) for row, file, place, reason, _ in rows] == [
        (number, "mixed.csv", number + 1, said) for number, (_, said) in BAD.items()
    ]
    raw = [mixed[number + 1].decode("utf-8", "backslashreplace") for number in BAD]
    assert [text for *_, text in rows] == raw


def test_stop_names_the_first_bad_row(model: Path) -> None:
    mixed, _ = with_bad(lines())
    with pytest.raises(DataError) as caught:
        score_files(asked(model, put("mixed.csv", mixed)))
    assert str(caught.value) == (
        "mixed.csv row 1 has 2 cells, expected 10 as in the header: '1,2'. Correct that row, or leave such rows out with --on-error skip."
    )
    assert files(Path()) == ["mixed.csv"]


def test_skip_writes_no_quarantine_file(model: Path) -> None:
    mixed, numbers = with_bad(lines())
    result = score_files(asked(model, put("mixed.csv", mixed), on_error="skip", id_columns=("key",)))
    assert result.counts.rejected == RejectedRows(rows=7, first="mixed.csv row 1: 2 cells, expected 10 as in the header")
    assert (result.counts.rows, len(numbers)) == (GOOD, GOOD)
    assert files(Path()) == ["mixed.csv", "out.csv", "out.csv.manifest.json"]
    # With keys the row numbers stand nowhere but with the alarms, and are those of the input all the same.
    assert [alarm.row for alarm in result.counts.top_alarms] == [
        numbers[int(re.findall(r"\d+", alarm.ids["key"] or "")[0])] for alarm in result.counts.top_alarms
    ]


def test_the_manifest_and_the_second_run_know_what_was_left_out(model: Path) -> None:
    request = asked(model, put("mixed.csv", with_bad(lines())[0]), on_error="quarantine")
    first, second = score_files(request), score_files(request)
    kept = json.loads(Path("out.csv.manifest.json").read_text(encoding="utf-8"))
    assert kept["counts"]["rejected"] == {
        "rows": 7,
        "first": "mixed.csv row 1: 2 cells, expected 10 as in the header",
        "quarantine": "out.csv.quarantine.csv",
    }
    assert kept["made_from"]["options"]["on_error"] == "quarantine"
    assert (second.unchanged, second.counts.rejected) == (True, first.counts.rejected)
    with pytest.raises(OutputError, match="holds the scores of another request"):
        score_files(replace(request, on_error="skip"))


@pytest.mark.parametrize("fdr", [None, 0.2])
def test_neither_chunks_nor_kills_change_a_byte(model: Path, fdr: float | None, monkeypatch: pytest.MonkeyPatch) -> None:
    good = lines(2500)
    mixed, _ = with_bad(good)
    # Two more runs of bad rows far below, each longer than a block.
    mixed[1500:1500] = mixed[-300:-300] = [b"x" * 40] * 40
    monkeypatch.setattr("vae_anomaly.tables.csv_records.PIECE", 1 << 10)
    put("mixed.csv", mixed)
    names = ("out.csv", "out.csv.manifest.json", "out.csv.quarantine.csv")
    base = asked(model, "mixed.csv", on_error="quarantine", chunk_rows=1024, part_rows=1)
    base = base if fdr is None else replace(base, alpha=None, fdr=fdr)
    score_files(base)
    whole = [Path(name).read_bytes() for name in names]
    assert whole[2].count(b"x" * 40) == 80
    for chunk_rows in (1, 777, 100_000):
        for name in names:
            Path(name).unlink()
        if chunk_rows == 777:
            for after, passes in ((1, 1), (1, 2), (1, 1)) if fdr else ((1, 1), (1, 1)):
                killed(replace(base, chunk_rows=chunk_rows), after, passes=passes, error=KeyboardInterrupt)
        result = score_files(replace(base, chunk_rows=chunk_rows))
        assert [Path(name).read_bytes() for name in names] == whole
        assert (result.resumed_rows > 0) == (chunk_rows == 777)
    assert files(Path()) == sorted(["mixed.csv", *names])


def test_a_killed_job_leaves_no_quarantine_file_and_one_without_bad_rows_removes_an_old_one(model: Path) -> None:
    put("mixed.csv", with_bad(lines())[0])
    request = asked(model, "mixed.csv", on_error="quarantine")
    killed(request, 0)
    assert not Path("out.csv.quarantine.csv").exists()
    score_files(request)
    put("mixed.csv", lines())
    assert score_files(replace(request, overwrite=True)).counts.rejected is None
    assert files(Path()) == ["mixed.csv", "out.csv", "out.csv.manifest.json"]


def test_a_quarantine_file_without_manifest_is_not_replaced(model: Path) -> None:
    put("mixed.csv", with_bad(lines())[0])
    Path("out.csv.quarantine.csv").write_text("mine", encoding="utf-8")
    request = asked(model, "mixed.csv", on_error="quarantine")
    with pytest.raises(OutputError) as caught:
        score_files(request)
    assert str(caught.value) == (
        "out.csv.quarantine.csv exists and no manifest says what it is. Name another output with -o, or give --overwrite to replace it."
    )
    assert Path("out.csv.quarantine.csv").read_text(encoding="utf-8") == "mine"
    score_files(replace(request, overwrite=True))
    assert len(side()) == 1 + len(BAD)


def test_row_numbers_continue_over_files_of_all_formats(model: Path) -> None:
    good = lines()
    put("2.csv", [good[0], good[1], b"bad", *good[2:]])
    pq.write_table(table("mixed", 5, seed=3), "1.parquet")
    put("3.csv", [good[0], b"bad,too", *good[1:3]])
    score_files(asked(model, ("1.parquet", "2.csv", "3.csv"), "out.parquet", on_error="quarantine"))
    assert pq.read_table("out.parquet")["row"].to_pylist() == [*range(6), *range(7, 66), 67, 68]
    assert [row[:3] for row in side("out.parquet")[1:]] == [["6", "2.csv", "2"], ["66", "3.csv", "1"]]


@pytest.mark.parametrize("on_error", ["skip", "quarantine"])
def test_a_file_of_bad_rows_only_is_refused(model: Path, on_error: str) -> None:
    put("bad.csv", [lines()[0], b"1", b"2"])
    with pytest.raises(DataError) as caught:
        score_files(asked(model, "bad.csv", on_error=on_error))
    assert str(caught.value) == (
        "none of the first 2 rows of bad.csv can be read; bad.csv row 1: 1 cells, expected 10 as in the header. "
        "Check the delimiter, the encoding and the columns."
    )
    assert files(Path()) == ["bad.csv"]


def test_a_file_of_bad_rows_only_is_refused_among_others(model: Path) -> None:
    put("a.csv", with_bad(lines())[0])
    put("b.csv", [lines()[0], b"1", b"2", b"3"])
    text = (
        "none of the first 3 rows of b.csv can be read; b.csv row 1: 1 cells, expected 10 as in the header. "
        "Check the delimiter, the encoding and the columns."
    )
    for output in ("o.csv", "o/"):
        for data in (("a.csv", "b.csv"), ("b.csv", "a.csv")):
            with pytest.raises(DataError) as caught:
                score_files(asked(model, data, output, on_error="skip"))
            assert str(caught.value) == text
            assert not Path("o.csv").exists()
    for read in (Source.read_table, lambda source: source.sample(5, 0)):
        with pytest.raises(DataError) as caught:
            read(open_source(["a.csv", "b.csv"], Reading(on_error="skip")))
        assert str(caught.value) == text


def test_a_file_whose_good_rows_a_killed_job_has_scored_is_not_refused_for_the_rest() -> None:
    put("a.csv", [b"a,b", b"1,2"])
    put("b.csv", [b"a,b", b"1,2", b"bad", b"worse"])
    source = open_source(["a.csv", "b.csv"], Reading(on_error="skip"))
    assert sum(batch.num_rows for batch in source.batches(None, first_row=2)) == 0
    put("b.csv", [b"a,b", b"bad", b"worse"])
    with pytest.raises(DataError, match=r"^none of the first 2 rows of b\.csv can be read"):
        list(open_source(["a.csv", "b.csv"], Reading(on_error="skip")).batches(None, first_row=1))


def test_too_many_bad_rows_before_a_good_one_are_refused(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vae_anomaly.tables.csv_records.PIECE", 1 << 10)
    monkeypatch.setattr("vae_anomaly.tables.source._MAX_LEADING_REJECTS", 1000)
    good = lines()
    put("late.csv", [good[0], *[b"x"] * 2000, *good[1:]])
    with pytest.raises(
        DataError, match=r"^none of the first 1,\d\d\d rows of late\.csv can be read; late\.csv row 1: 1 cells, expected 10"
    ):
        score_files(asked(model, "late.csv", on_error="skip"))
    monkeypatch.setattr("vae_anomaly.tables.source._MAX_LEADING_REJECTS", 10)
    put("early.csv", [*good, *[b"x"] * (GOOD - 1)])
    assert score_files(asked(model, "early.csv", on_error="skip")).counts.rows == GOOD


@pytest.mark.parametrize("on_error", ["skip", "quarantine"])
def test_more_rows_left_out_than_kept_are_refused(model: Path, on_error: OnError) -> None:
    put("most.csv", [*lines(), *[b"x"] * (GOOD + 1)])
    said = (
        rf"^{GOOD + 1} rows cannot be read and only {GOOD} can; the first, counted from 1: most\.csv row {GOOD + 1}: 1 cells, expected 10 "
        r"as in the header\. Correct the file, or say where its rows are with --header-row, --skip-rows or --no-header\.$"
    )
    with pytest.raises(DataError, match=said):
        score_files(asked(model, "most.csv", on_error=on_error))
    assert not Path("most.scores.csv").exists()
    with pytest.raises(DataError, match=said):
        open_source(["most.csv"], Reading(on_error="skip")).read_table()
    with pytest.raises(DataError, match=said):
        open_source(["most.csv"], Reading(on_error="skip")).sample(20, 0)


def test_a_folder_is_scored_without_the_quarantine_files_in_it(model: Path) -> None:
    Path("in").mkdir()
    put("in/a.csv", with_bad(lines())[0])
    score_files(asked(model, "in/a.csv", "in/alarms.parquet", on_error="quarantine"))
    Path("in/alarms.parquet").unlink()
    assert score_files(asked(model, "in", on_error="skip")).counts.rows == GOOD


def test_formulas_in_the_quarantine_file_are_escaped_unless_told_otherwise(model: Path) -> None:
    put("mixed.csv", [*lines(), b'=cmd|"calc"!A1', b"-5"])
    score_files(asked(model, "mixed.csv", on_error="quarantine"))
    assert [row[4] for row in side()[1:]] == ['\'=cmd|"calc"!A1', "-5"]
    score_files(asked(model, "mixed.csv", on_error="quarantine", escape=False, overwrite=True))
    assert [row[4] for row in side()[1:]] == ['=cmd|"calc"!A1', "-5"]


# ── the other verbs ──────────────────────────────────────────────────────────────────────────────────────────────────

TINY = test_app.TINY.replace("alpha = 0.05", "alpha = 0.1")


def labelled(rows: int, seed: int) -> list[bytes]:
    """Good rows with a label; those with a high pressure are faults."""
    header, *good = lines(rows, seed=seed)
    return [header + b",fault", *(row + (b",1" if b",9000" in row else b",0") for row in good)]


def test_fit_calibrate_evaluate_and_explain_leave_out_the_same_rows() -> None:
    Path("tiny.toml").write_text(TINY, encoding="utf-8")
    words = ["--config", "tiny.toml", "--exclude", "key", "--no-tracking", "--label-column", "fault", "--json"]
    good, bad = labelled(240, 1), [b"1,2", b"\xffx,2,3,4,5,6,7,8,9,10,11"]
    note = "2 rows cannot be read and were left out; the first, counted from 1: {} row 6: 2 cells, expected 11 as in the header"
    put("good.csv", good)
    put("bad.csv", [*good[:6], *bad, *good[6:]])
    stopped = run("fit", "bad.csv", *words, "--output", "x")
    assert (stopped.exit_code, "bad.csv row 6 has 2 cells" in stopped.stderr) == (3, True)
    alone, among = (json.loads(run("fit", f"{n}.csv", *words, "--output", n, "--on-error", "skip").stdout) for n in ("good", "bad"))
    assert among["promise"] == alone["promise"]
    assert [n for n in among["notes"] if n not in alone["notes"]] == [note.format("bad.csv")]
    later = labelled(100, 2)
    put("later.csv", [*later[:6], *bad, *later[6:]])
    put("good later.csv", later)
    shown = run("evaluate", "later.csv", "-m", "good", "--on-error", "skip", "--json", "--no-tracking")
    assert shown.exit_code == 0, shown.stderr
    found, expected = (
        json.loads(shown.stdout),
        json.loads(run("evaluate", "good later.csv", "-m", "good", "--json", "--no-tracking").stdout),
    )
    assert (found["quality"], found["rows"]) == (expected["quality"], 100)
    assert note.format("later.csv") in found["notes"]
    beside = ["evaluate", "good later.csv", "-m", "good", "--reference", "bad.csv", "--on-error", "skip", "--json", "--no-tracking"]
    assert json.loads(run(*beside).stdout)["notes"] == [note.format("bad.csv")]
    row = json.loads(run("explain", "later.csv", "-m", "good", "--rows", "7", "--on-error", "skip", "--json").stdout)["rows"][0]
    same = json.loads(run("explain", "good later.csv", "-m", "good", "--rows", "5", "--json").stdout)["rows"][0]
    assert row | {"row": 5} == same
    first = "later.csv row 6: 2 cells, expected 11 as in the header"
    worst = ["explain", "later.csv", "-m", "good", "--worst", "1", "--on-error", "skip"]
    assert json.loads(run(*worst, "--json").stdout)["rejected"] == {"rows": 2, "first": first, "quarantine": ""}
    assert f"  skipped      2 malformed rows; the first, counted from 1: {first}\n" in run(*worst).stdout
    gone = run("explain", "later.csv", "-m", "good", "--rows", "5", "--on-error", "skip")
    assert (gone.exit_code, gone.stderr.splitlines()[-1]) == (
        3,
        "error: row 5 of later.csv cannot be read and is left out; without --on-error skip the reason is shown.",
    )
    moved = run("calibrate", "later.csv", "-m", "good", "-o", "moved", "--alpha", "0.1", "--on-error", "skip")
    assert moved.exit_code == 0
    assert moved.stderr == f"warning: {note.format('later.csv')}\n"
    assert f"  skipped      2 malformed rows; the first, counted from 1: {first}\n" in moved.stdout
    shown = run("calibrate", "later.csv", "-m", "good", "-o", "again", "--alpha", "0.1", "--on-error", "skip", "--json")
    assert json.loads(shown.stdout)["rejected"] == {"rows": 2, "first": first, "quarantine": ""}
    whole = run("calibrate", "good later.csv", "-m", "good", "-o", "whole", "--alpha", "0.1", "--json")
    assert json.loads(whole.stdout)["rejected"] is None
    assert json.loads(whole.stdout)["promise"] == json.loads(shown.stdout)["promise"]
    assert "left out" not in run("explain", "good later.csv", "-m", "good", "--worst", "1", "--on-error", "skip").stdout


def as_text(rows: pa.Table) -> pa.Table:
    """Return the rows with a word among the numbers of the fifth."""
    flow: list[Any] = [None if value is None else str(value) for value in rows["flow"].to_pylist()]
    return rows.set_column(0, "flow", pa.array([*flow[:4], "Bad", *flow[5:]]))


def as_infinity(rows: pa.Table) -> pa.Table:
    return rows.set_column(0, "flow", pa.array([*rows["flow"].to_pylist()[:-1], float("-inf")]))


@pytest.mark.parametrize("on_error", ["skip", "quarantine"])
@pytest.mark.parametrize("ending", ["parquet", "arrow"])
@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            as_text,
            (
                "column 'flow' is numeric in this model but 'Bad' in in/2.{} row 5 (counted from 1). "
                "Declare it in --missing-values, or leave the column out and fit again."
            ),
        ),
        (
            as_infinity,
            (
                "column 'flow' must be finite but is -inf in in/2.{} row 20 (counted from 1). "
                "Declare it in --missing-values if it means a missing value, or correct the row."
            ),
        ),
    ],
    ids=["text", "infinity"],
)
def test_a_cell_of_parquet_or_arrow_that_does_not_fit_stops_in_any_case(
    model: Path, change: Any, said: str, ending: str, on_error: str
) -> None:
    """As README and help say, ``--on-error`` is for rows of CSV; the error says so too."""
    Path("in").mkdir()
    rows = table("mixed", 20, seed=3)
    for name, part in (("1", rows), ("2", change(rows))):
        (pq.write_table if ending == "parquet" else feather.write_feather)(part, f"in/{name}.{ending}")
    shown = run("score", "in", "-m", model, "-o", "out.csv", "--on-error", on_error)
    whole = "(--on-error is for rows of CSV: Parquet and Arrow files are good or damaged as a whole.)"
    assert (shown.exit_code, shown.stderr.splitlines()[-1]) == (3, f"error: {said.format(ending)} {whole}")
    assert files(Path()) == ["in"]
    stopped = run("score", "in", "-m", model, "-o", "out.csv")
    assert (stopped.exit_code, stopped.stderr.splitlines()[-1]) == (3, f"error: {said.format(ending)}")


def test_the_command_says_what_was_left_out(model: Path) -> None:
    put("mixed.csv", with_bad(lines())[0])
    shown = run("score", "mixed.csv", "-m", model, "--alpha", "0.1", "--on-error", "quarantine")
    assert shown.exit_code == 0, shown.stderr
    said = (
        "7 malformed rows, written to mixed.scores.csv.quarantine.csv; the first, counted from 1: "
        "mixed.csv row 1: 2 cells, expected 10 as in the header"
    )
    assert re.search(rf"skipped +{re.escape(said)}\n", shown.stdout)
    again = json.loads(run("score", "mixed.csv", "-m", model, "--alpha", "0.1", "--on-error", "quarantine", "--json").stdout)
    assert again["counts"]["rejected"]["rows"] == 7
