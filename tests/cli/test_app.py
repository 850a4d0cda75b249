"""The command line: help, exit codes, one line an error, one JSON object, nothing half-made."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pytest
from typer.main import get_command
from typer.testing import CliRunner, Result

from vae_anomaly import __version__
from vae_anomaly.cli.app import app
from vae_anomaly.jobs import score_workdir
from vae_anomaly.model.ensemble import Ensemble

ROOT = Path(__file__).parents[2]
ROWS = 240
TINY = """
[model]
views = ["standard"]
members = 1
hidden = [8]
latent = 2
exemplars = 50
[train]
steps = 12
batch_rows = 32
device = "cpu"
[calibration]
alpha = 0.05
method = "split"
share = 0.4
"""
COMMANDS: dict[str, Any] = getattr(get_command(app), "commands", {})


def table(rows: int, seed: int) -> pa.Table:
    """A little machine: two numbers that go together, one that follows a mode."""
    random = np.random.default_rng(seed)
    flow = random.normal(30.0, 4.0, rows)
    mode = random.choice(["low", "high"], rows)
    return pa.table({
        "machine": pa.array([f"M{i % 3}" for i in range(rows)]),
        "flow": flow.round(3),
        "pressure": (flow / 10 + random.normal(0, 0.1, rows)).round(4),
        "power": (np.where(mode == "high", 9.0, 4.0) + random.normal(0, 0.2, rows)).round(4),
        "mode": mode,
    })  # fmt: skip


def write(path: Path, rows: pa.Table) -> Path:
    pyarrow.csv.write_csv(rows, path)
    return path


def run(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


@pytest.fixture(scope="session")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a config, data and a fitted model ``model``; tests copy what they change."""
    folder = tmp_path_factory.mktemp("ground")
    (folder / "tiny.toml").write_text(TINY, encoding="utf-8")
    write(folder / "normal.csv", table(ROWS, seed=1))
    fitted = run("fit", folder / "normal.csv", "--config", folder / "tiny.toml", "--id-columns", "machine", "--no-tracking",
                 "--output", folder / "model", "--json")  # fmt: skip
    assert fitted.exit_code == 0, fitted.output
    (folder / "fit.json").write_text(fitted.stdout, encoding="utf-8")
    return folder


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An own folder to work in, with ten new rows, one of them broken."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    rows = table(10, seed=2).to_pylist()
    rows[7] |= {"pressure": 99.0}
    write(tmp_path / "new.csv", pa.Table.from_pylist(rows))
    return tmp_path


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# ── help ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_help_names_and_explains_every_option(name: str) -> None:
    shown = run(name, "--help")
    assert shown.exit_code == 0
    for parameter in COMMANDS[name].params:
        assert parameter.help, parameter.name
        shows = [option in shown.stdout for option in parameter.opts if option.startswith("-")]
        assert not any(shows) if getattr(parameter, "hidden", False) else all(shows), parameter.name
    assert "Example: vae-anomaly" in shown.stdout
    assert {"--json", "--quiet", "--verbose"} <= {option for p in COMMANDS[name].params for option in p.opts}


def test_help_groups_the_options() -> None:
    headings = [line for line in run("fit", "-h").stdout.splitlines() if line.endswith(":") and not line.startswith(" ")]
    assert headings == ["Arguments:", "Data:", "Threshold:", "Training:", "Tracking and output:", "Every command:"]


def test_help_quotes_defaults_without_brackets() -> None:
    assert "[default: all cores; " in " ".join(run("score", "--help").stdout.split())


def test_nothing_typed_shows_the_help() -> None:
    shown = run()
    assert (shown.exit_code, shown.stdout) == (0, run("--help").stdout)


def test_version() -> None:
    shown = run("--version")
    assert (shown.exit_code, shown.stdout) == (0, f"vae-anomaly {__version__}\n")


# ── usage ────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("words", "named"),
    [
        pytest.param(["fot"], "Did you mean 'fit'", id="unknown command"),
        pytest.param(["score", "x.csv", "--explian", "all"], "--explian", id="unknown option"),
        pytest.param(["score", "x.csv", "--explain", "some"], "'flagged', 'all', 'none'", id="unknown choice"),
        pytest.param(["score", "x.csv", "--alpha", "much"], "--alpha", id="no number"),
        pytest.param(["score", "x.csv", "--chunk-rows", "0"], "--chunk-rows", id="out of range"),
        pytest.param(["score", "x.csv", "--chunk-rows", "9" * 20], "--chunk-rows", id="more than a machine counts to"),
        pytest.param(["score"], "DATA", id="no data"),
    ],
)
def test_usage_errors_are_one_line_and_2(words: list[str], named: str) -> None:
    shown = run(*words)
    assert (shown.exit_code, shown.stdout) == (2, "")
    assert shown.stderr.startswith("error: ")
    assert shown.stderr.count("\n") == 1
    assert named in shown.stderr
    assert "--help" in shown.stderr


@pytest.mark.parametrize(
    ("words", "option"),
    [
        (["fit", "x.csv", "--exclude", "a", "--exclude", "b"], "--exclude"),
        (["fit", "x.csv", "--exclude=a", "--exclude", "b"], "--exclude"),
        (["score", "x.csv", "--id-columns", "a", "--id-columns", "b"], "--id-columns"),
        (["evaluate", "x.csv", "--normal-label", "a", "--normal-label", "b"], "--normal-label"),
        (["fit", "x.csv", "--missing-values", "?", "--missing-values", "Bad"], "--missing-values"),
    ],
)
def test_a_list_that_is_given_twice_is_refused_because_only_one_would_count(words: list[str], option: str) -> None:
    shown = run(*words)
    assert (shown.exit_code, shown.stdout) == (2, "")
    assert shown.stderr == f"error: {option} is given 2 times; give it once, with commas between the names.\n"


def test_usage_errors_are_json_too() -> None:
    shown = run("score", "x.csv", "--explain", "some", "--json")
    assert shown.exit_code == 2
    assert json.loads(shown.stdout)["exit_code"] == 2


# ── fit ──────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_fit_prints_one_object(ground: Path) -> None:
    text = (ground / "fit.json").read_text(encoding="utf-8")
    found = json.loads(text)
    assert text.count("\n") == 1
    assert (found["rows_read"], found["rows_used"], found["promise"]["calibration_rows"]) == (ROWS, ROWS, 96)
    assert [column["name"] for column in found["columns"]] == ["flow", "pressure", "power", "mode"]
    assert found["left_out"] == [{"name": "machine", "reason": "id column", "time": False}]
    assert found["model"]["folder"] == str(ground / "model")
    assert found["quality"] is None


def test_fit_says_what_happened_and_what_to_type_next(ground: Path, here: Path) -> None:
    shown = run("fit", ground / "normal.csv", "--config", ground / "tiny.toml", "--no-tracking", "-o", "mine", "--exclude", "machine,power")
    assert shown.exit_code == 0, shown.stderr
    assert shown.stdout.startswith(f"Fitted on {ROWS} rows, 3 columns, in ")
    for words in (
        "2 numeric, 1 category",
        "machine (excluded); power (excluded)",
        "alpha 0.05 (split, exact",
        "at most 5 % of normal rows",
    ):
        assert words in shown.stdout
    assert "  vae-anomaly score NEW.csv --model mine\n" in shown.stdout
    assert files(here) == ["mine", "new.csv"]


def test_fit_leaves_labelled_rows_out_and_is_held_against_them(ground: Path, here: Path) -> None:
    normal = table(200, seed=3)
    broken = table(20, seed=4).set_column(2, "pressure", pa.array([99.0] * 20))
    both = pa.concat_tables([normal, broken]).append_column("state", pa.array(["normal"] * 200 + ["leak"] * 20))
    shown = run("fit", write(here / "both.csv", both), "--config", ground / "tiny.toml", "--no-tracking", "-o", "mine",
                "--label-column", "state", "--id-columns", "machine", "--json")  # fmt: skip
    assert shown.exit_code == 0, shown.stderr
    found = json.loads(shown.stdout)
    assert (found["rows_read"], found["rows_used"], found["labels_left_out"]) == (220, 200, {"leak": 20})
    assert found["quality"]["recall"] == 1.0
    assert found["quality"]["false_alarms"] is None
    assert found["quality"]["by_label"] == [{"label": "leak", "rows": 20, "flagged": 20}]
    # The peers learned from the rows our networks learned from, and were tried on the calibration rows and the anomalous ones.
    assert (found["quality"]["comparison"]["peer_rows"], found["quality"]["comparison"]["test_rows"]) == (120, 100)


@pytest.mark.usefixtures("here")
def test_options_win_over_the_config_file(ground: Path) -> None:
    shown = run("fit", ground / "normal.csv", "--config", ground / "tiny.toml", "--no-tracking", "-o", "mine", "--alpha", "0.1",
                "--steps", "3", "--json")  # fmt: skip
    assert (json.loads(shown.stdout)["promise"]["alpha"], json.loads(shown.stdout)["steps"]) == (0.1, 3)


def test_quiet_prints_nothing(ground: Path, here: Path) -> None:
    shown = run("score", here / "new.csv", "-m", ground / "model", "--quiet")
    assert (shown.exit_code, shown.output) == (0, "")


# ── score ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_score_writes_beside_the_input_and_says_so(ground: Path, here: Path) -> None:
    shown = run("score", "new.csv", "-m", ground / "model", "--id-columns", "machine")
    assert (shown.exit_code, shown.stderr) == (0, "")
    assert shown.stdout.startswith("Scored 10 rows at ")
    assert "row 7, machine M1: score" in shown.stdout
    assert "    pressure: 99, expected " in shown.stdout
    assert files(here) == ["new.csv", "new.scores.csv", "new.scores.csv.manifest.json"]
    scored = pyarrow.csv.read_csv(here / "new.scores.csv")
    assert (scored.num_rows, scored.column_names[0], scored["is_anomaly"][7].as_py()) == (10, "machine", True)


def test_score_prints_one_object(ground: Path, here: Path) -> None:
    shown = run("score", here / "new.csv", "-m", ground / "model", "--json")
    found = json.loads(shown.stdout)
    assert (found["counts"]["rows"], found["unchanged"], found["counts"]["top_alarms"][0]["row"]) == (10, False, 7)
    assert found["counts"]["top_alarms"][0]["reasons"][0]["column"] == "pressure"
    assert found["counts"]["expected_alarms"] == pytest.approx(0.5)


def test_the_same_request_again_is_nothing_to_do(ground: Path, here: Path) -> None:
    first = json.loads(run("score", "new.csv", "-m", ground / "model", "--json").stdout)
    before = (here / "new.scores.csv").stat().st_mtime_ns
    again = run("score", "new.csv", "-m", ground / "model", "--json", "--chunk-rows", "3", "--threads", "1")
    assert again.exit_code == 0
    assert json.loads(again.stdout)["unchanged"] is True
    assert json.loads(again.stdout)["counts"] == first["counts"]
    assert (here / "new.scores.csv").stat().st_mtime_ns == before
    assert run("score", "new.csv", "-m", ground / "model").stdout.startswith("Nothing to do: new.scores.csv already holds")


def test_unknown_columns_are_named_once(ground: Path, here: Path) -> None:
    rows = table(10, seed=2).append_column("shift", pa.array(["a"] * 10))
    shown = run("score", write(here / "more.csv", rows), "-m", ground / "model")
    assert shown.exit_code == 0
    assert shown.stderr == "warning: ignored, because the model does not know them: 'shift'\n"


def test_so_are_those_of_any_input(ground: Path, here: Path) -> None:
    rows = table(10, seed=2).append_column("shift", pa.array(["a"] * 10))
    write(here / "more.csv", rows)
    for output in ("o.csv", "o/"):
        shown = run("score", "new.csv", "more.csv", "-m", ground / "model", "-o", output)
        assert shown.exit_code == 0
        assert shown.stderr == "warning: ignored, because the model does not know them: 'shift'\n"
        assert "  ignored      shift\n" in shown.stdout


# ── errors ───────────────────────────────────────────────────────────────────────────────────────────────────────────

SCORE = ("score", "new.csv", "-m", "{ground}/model")
FIT = ("fit", "new.csv", "--config", "{ground}/tiny.toml", "--no-tracking", "-o", "mine")
TEXTS = {
    "missing column": (
        ("score", "lacks.csv", *SCORE[2:]), 3,
        "lacks.csv lacks 1 of the model's 4 columns: 'pressure'. Available columns: 'machine', 'flow', 'power', 'mode'.",
    ),
    "missing column before anything else": (
        ("score", "lacks.csv", *SCORE[2:], "-o", "old.csv"), 3,
        "lacks.csv lacks 1 of the model's 4 columns: 'pressure'. Available columns: 'machine', 'flow', 'power', 'mode'.",
    ),
    "text in a numeric column": (
        ("score", "text.csv", *SCORE[2:]), 3,
        ("column 'flow' is numeric in this model but 'n/a?' in text.csv row 2 (line 3). "
        "Declare it in --missing-values, leave the column out and fit again, or leave such rows out with --on-error skip."),
    ),
    "no such file": (("score", "absent.csv", *SCORE[2:]), 3, "absent.csv does not exist."),
    "empty file": (("score", "empty.csv", *SCORE[2:]), 3, "empty.csv is empty (0 bytes)."),
    "empty file to fit": (("fit", "empty.csv", *FIT[2:]), 3, "empty.csv is empty (0 bytes)."),
    "header only": (("score", "header.csv", *SCORE[2:]), 3, "header.csv has a header but no rows; expected a header and rows."),
    "scores to nowhere": (
        (*SCORE, "-o", "-"), 2, "'-' is not the name of an output, and scores are not printed; name a file or a folder with -o.",
    ),
    "scores to a blank": (
        (*SCORE, "-o", " "), 2, "' ' is not the name of an output, and scores are not printed; name a file or a folder with -o.",
    ),
    "a model elsewhere": (
        (*SCORE[:3], "s3://key:secret@lake/pump"), 5,
        ("no model at s3://lake/pump: expected the path of a local folder, models:/NAME@ALIAS or runs:/ID. "
        "Copy the folder to this machine, or register it with vae-anomaly upload."),
    ),
    "a decimal comma": (
        (*SCORE, "--alpha", "0,05"), 2, "Invalid value for '--alpha': '0,05' is not a number; use a decimal point: 0.05 (see --help)",
    ),
    "unknown folder": (
        (*SCORE[:3], "nowhere"), 5, "no model at nowhere: folder not found; expected a folder with manifest.json and weights.safetensors.",
    ),
    "no store": (
        ("score", "new.csv"), 5,
        "no model store at sqlite:///{here}/mlflow.db: there is no such file. Fit a model in this folder, or give --tracking-uri.",
    ),
    "damaged artifact": (
        (*SCORE[:3], "damaged"), 5,
        "damaged/weights.safetensors is damaged: it differs from its digest. Copy the model again, or fit again.",
    ),
    "alpha too fine": (
        (*SCORE, "--alpha", "0.001"), 4,
        ("alpha 0.001 needs at least 999 calibration rows; this model has 96. Finest alpha possible: 0.0104. "
        "Ask for that, or calibrate on more normal rows."),
    ),
    "alpha out of range": ((*SCORE, "--alpha", "5"), 2, "--alpha must be in (0, 1); got 5."),
    "top out of range": ((*SCORE, "--top", "0"), 2, "--top must be a whole number from 1 or 'all'; got '0'"),
    "ending of the output": ((*SCORE, "-o", "x.txt"), 2, "output 'x.txt' must end in .csv or .parquet, got '.txt'."),
    "output of too long a name": (
        (*SCORE, "-o", "x" * 300 + ".csv"), 7, "x" * 300 + ".csv cannot be written: its name is too long. Give it a shorter one with -o.",
    ),
    "output folder of too long a name": (
        (*SCORE, "-o", "x" * 300 + "/"), 7, "x" * 300 + " cannot be written: its name is too long. Give it a shorter one with -o.",
    ),
    "side file of too long a name": (
        (*SCORE, "-o", "x" * 237 + ".csv", "--on-error", "quarantine"), 7,
        "x" * 237 + ".csv.quarantine.csv cannot be written: its name is too long. Give it a shorter one with -o.",
    ),
    "page of too long a name": (
        ("report", *SCORE[2:], "-o", "x" * 300 + ".html"), 7,
        "x" * 300 + ".html cannot be written: its name is too long. Give it a shorter one with -o.",
    ),
    "ending of a page": (
        ("report", *SCORE[2:], "-o", "r.txt"), 2, "a report is a page: output 'r.txt' must end in .html, got '.txt'.",
    ),
    "ending of the page of an evaluation": (
        ("evaluate", "labelled.csv", *SCORE[2:], "--label-column", "state", "-o", "r.csv"), 2,
        "a report is a page: output 'r.csv' must end in .html, got '.csv'.",
    ),
    "folder of a file URI": (
        (*SCORE, "-o", "file://{here}/no/o.csv"), 7,
        "{here}/no/o.csv cannot be written: its folder does not exist. Make the folder or write elsewhere with -o.",
    ),
    "parts among inputs by file URI": (
        ("score", "file://{here}/more", *SCORE[2:], "-o", "file://{here}/more/out/"), 7,
        "{here}/more/out is inside the input folder file://{here}/more, so its parts would be scored too. Name a folder elsewhere with -o.",
    ),
    "output is the input": ((*SCORE, "-o", "new.csv", "--overwrite"), 7, "new.csv is itself an input; name another output with -o."),
    "an id column like one of the output": (
        ("score", "like.csv", *SCORE[2:], "--id-columns", "p_value"), 2,
        "'p_value' cannot be an id column: the output has a column of that name already. Rename it in the input.",
    ),
    "several inputs": (
        ("score", "new.csv", "lacks.csv", *SCORE[2:]), 2,
        "2 inputs have no common default for the output; name it with -o.",
    ),
    "existing output": (
        (*SCORE, "-o", "old.csv"), 7,
        "old.csv exists and no manifest says what it is. Name another with -o, or give --overwrite to replace it.",
    ),
    "too few calibration rows": (
        FIT, 3,
        ("alpha 0.05 needs at least 19 calibration rows; 5 given (half of the 10 rows at most). "
        "Finest alpha possible with these rows: 0.167. Use --alpha 0.167 or more rows."),
    ),
    "a column without a spread that is a number": (
        ("fit", "large.csv", *FIT[2:]), 3,
        ("column 'a' holds -1e+308 in the training rows; the spread of numbers beyond ±1e+148 cannot be computed. Declare it in "
        "--missing-values if it means a missing value, give the column in a larger unit, or leave it out with --exclude."),
    ),
    "labels without a normal one": (
        ("fit", "labelled.csv", *FIT[2:], "--label-column", "state"), 3,
        ("no row is normal: column 'state' holds 'bad' (6), 'worse' (4); normal means '0', 'false', 'normal', 'negative' or empty. "
        "Name your normal labels with --normal-label."),
    ),
    "unknown label column": (
        ("fit", "labelled.csv", *FIT[2:], "--label-column", "stat"), 2,
        ("--label-column names a column that is not in the data: 'stat' (did you mean 'state'?). "
        "Available columns: 'machine', 'flow', 'pressure', 'power', 'mode', 'state'."),
    ),
    "no place for the model": (FIT[:5], 2, "without tracking the model goes nowhere; name a folder for it with --output."),
    "existing folder": (
        (*FIT[:6], "damaged"), 7, "damaged exists. Name another folder with --output, or give --overwrite to replace the model in it.",
    ),
    "existing folder of something else": (
        (*FIT[:6], "other", "--overwrite"), 7,
        "other exists and holds no model, so it is not replaced. Name another folder with --output.",
    ),
    "no config file": ((*FIT, "--config", "no.toml"), 2, "config file not found: no.toml."),
    "one class only": (
        ("evaluate", "labelled.csv", *SCORE[2:], "--label-column", "state", "--normal-label", "bad,worse"), 3,
        ("no row is anomalous: column 'state' holds 'bad' (6), 'worse' (4), and all of that means normal ('bad', 'worse'). "
        "Give rows of both classes, or other labels with --normal-label."),
    ),
    "no label column": (("evaluate", "new.csv", *SCORE[2:]), 2, "which column holds the labels? Name it with --label-column."),
    "nothing to look at": (
        ("ui",), 5,
        "no model store at sqlite:///{here}/mlflow.db: there is no such file. Fit a model in this folder, or give --tracking-uri.",
    ),
    "nothing registered": (
        ("models",), 5,
        "no model store at sqlite:///{here}/mlflow.db: there is no such file. Fit a model in this folder, or give --tracking-uri.",
    ),
}  # fmt: skip


@pytest.fixture
def trouble(ground: Path, here: Path) -> Path:
    """Everything that can be wrong with an input, in files."""
    rows = table(10, seed=2)
    write(here / "like.csv", rows.append_column("p_value", rows["flow"]))
    write(here / "lacks.csv", rows.drop_columns(["pressure"]))
    write(here / "labelled.csv", rows.append_column("state", pa.array(["bad"] * 6 + ["worse"] * 4)))
    lines = (here / "new.csv").read_text(encoding="utf-8").splitlines()
    (here / "header.csv").write_text(f"{lines[0]}\n", encoding="utf-8")
    (here / "text.csv").write_text("\n".join([*lines[:2], '"M1",n/a?,3.0,4.0,"low"', *lines[3:]]), encoding="utf-8")
    (here / "empty.csv").touch()
    (here / "large.csv").write_text("a,b\n" + "".join(f"{'-' * (i % 2)}1e308,{i % 9}\n" for i in range(300)), encoding="utf-8")
    (here / "more").mkdir()
    write(here / "more" / "a.csv", rows)
    (here / "old.csv").write_text("mine", encoding="utf-8")
    shutil.copytree(ground / "model", here / "damaged")
    weights = here / "damaged" / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"?")
    (here / "other").mkdir()
    (here / "other" / "letter.txt").touch()
    return here


@pytest.mark.parametrize("case", TEXTS)
def test_errors_are_one_line_with_the_right_code_and_leave_nothing(case: str, ground: Path, trouble: Path) -> None:
    words, code, text = TEXTS[case]
    before = files(trouble)
    shown = run(*(word.format(ground=ground, here=trouble) for word in words))
    assert (shown.exit_code, shown.stdout, shown.stderr) == (code, "", f"error: {text.format(here=trouble)}\n")
    assert files(trouble) == before
    assert (trouble / "old.csv").read_text(encoding="utf-8") == "mine"


@pytest.mark.usefixtures("trouble")
def test_an_error_is_one_object_with_json(ground: Path) -> None:
    shown = run("score", "absent.csv", "-m", ground / "model", "--json")
    assert (shown.exit_code, json.loads(shown.stdout)) == (3, {"error": "absent.csv does not exist.", "exit_code": 3})


def test_another_request_does_not_replace_an_output(ground: Path, here: Path) -> None:
    run("score", "new.csv", "-m", ground / "model")
    before = (here / "new.scores.csv").read_bytes()
    shown = run("score", "new.csv", "-m", ground / "model", "--top", "1", "--explain", "all")
    assert (shown.exit_code, shown.stderr) == (7, (
        "error: new.scores.csv exists and holds the scores of another request (other options). "
        "Name another with -o, or give --overwrite to replace it.\n"
    ))  # fmt: skip
    assert (here / "new.scores.csv").read_bytes() == before
    assert run("score", "new.csv", "-m", ground / "model", "--top", "1", "--explain", "all", "--overwrite").exit_code == 0
    assert (here / "new.scores.csv").read_bytes() != before


def test_a_second_scoring_at_the_same_time_is_refused(ground: Path, here: Path) -> None:
    with score_workdir.claim(here / "new.scores.csv"):
        shown = run("score", "new.csv", "-m", ground / "model")
    assert (shown.exit_code, shown.stderr) == (7, (
        f"error: new.scores.csv is being written by another process (PID {os.getpid()}). Wait for it, or name another with -o.\n"
    ))  # fmt: skip
    assert files(here) == ["new.csv"]


def test_a_failed_replacement_leaves_output_and_manifest_as_they_were(ground: Path, trouble: Path) -> None:
    run("score", "new.csv", "-m", ground / "model", "-o", "kept.csv")
    kept, manifest = (trouble / "kept.csv").read_bytes(), (trouble / "kept.csv.manifest.json").read_bytes()
    assert run("score", "text.csv", "-m", ground / "model", "-o", "kept.csv", "--overwrite").exit_code == 3
    assert ((trouble / "kept.csv").read_bytes(), (trouble / "kept.csv.manifest.json").read_bytes()) == (kept, manifest)


# ── the exit ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_bug_says_that_it_is_one(ground: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("two\nlines")

    monkeypatch.setattr("vae_anomaly.workflow.models.model_info", broken)
    shown = run("info", ground / "model")
    text = "error: RuntimeError: two lines; this is a bug in vae-anomaly, please report it with the output of -vv\n"
    assert (shown.exit_code, shown.stderr) == (1, text)
    assert "Traceback (most recent call last)" in run("info", ground / "model", "-vv").stderr


def test_ctrl_c_is_130(ground: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("vae_anomaly.workflow.models.model_info", interrupted)
    shown = run("info", ground / "model")
    assert (shown.exit_code, shown.stderr) == (
        130,
        "error: interrupted; no partial output was written. Run the same command again to resume\n",
    )


def test_a_reader_that_goes_away_is_no_error() -> None:
    words = [
        sys.executable,
        "-c",
        "from vae_anomaly.cli import terminal; terminal.protect_standard_streams(); terminal.show({'a': 1}, str, as_json=True)",
    ]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT) as running:
        assert running.stdout is not None
        assert running.stderr is not None
        running.stdout.close()
        said = running.stderr.read()
    assert (running.returncode, said) == (0, b"")


def test_python_minus_m_is_the_command() -> None:
    done = subprocess.run([sys.executable, "-m", "vae_anomaly", "--version"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == f"vae-anomaly {__version__}\n"


# ── info, evaluate ───────────────────────────────────────────────────────────────────────────────────────────────────


def test_info_shows_columns_and_promise(ground: Path) -> None:
    shown = run("info", ground / "model")
    assert shown.exit_code == 0
    for words in ("3 numeric, 1 category", "machine (id column)", "at most 5 % of normal rows", "torch 2"):
        assert words in shown.stdout
    found = json.loads(run("info", ground / "model", "--json").stdout)
    assert (found["rows"], found["training_rows"], found["seed"], found["networks"]) == (ROWS, 144, 0, 1)


def test_info_verifies_that_the_batch_does_not_matter(ground: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "verified" not in run("info", ground / "model").stdout
    shown = run("info", ground / "model", "--verify").stdout
    assert "verified     on this processor a row has the same score, to the bit, in every batch" in shown
    monkeypatch.setattr(Ensemble, "rounds_alike", property(lambda _: False))
    shown = run("info", ground / "model", "--verify").stdout
    assert "verified     on this processor the last digits of a score can depend on the rows that are scored with it" in shown


def test_verbose_says_what_was_loaded(ground: Path) -> None:
    shown = run("info", ground / "model", "-v")
    assert shown.stderr.startswith(f"info: loaded {ground}/model from {ground}/model, fitted 20")


def test_evaluate_ranks_ours_beside_others(ground: Path, here: Path) -> None:
    broken = table(20, seed=4).set_column(2, "pressure", pa.array([99.0] * 20))
    rows = pa.concat_tables([table(100, seed=5), broken]).append_column("state", pa.array([0] * 100 + [1] * 20))
    words = ["evaluate", write(here / "labelled.csv", rows), "-m", ground / "model", "--label-column", "state"]
    quality = json.loads(run(*words, "--json").stdout)["quality"]
    assert (quality["normal_rows"], quality["anomalous_rows"], quality["recall"], quality["auroc"]) == (100, 20, 1.0, 1.0)
    assert quality["false_alarms"]["low"] <= quality["false_alarms"]["rate"] <= quality["false_alarms"]["high"]
    assert {r["name"] for r in quality["comparison"]["rankings"]} == {"vae-anomaly", "Isolation Forest", "5 nearest neighbours", "PCA"}
    shown = run(*words)
    assert "  ranking      AUROC 1.0000, average precision 1.0000\n" in shown.stdout
    assert f"(baselines fitted on {ROWS} normal rows):" in shown.stdout
