"""README.md is true: its commands run, its map is the tree, its tables are the code."""

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import vae_anomaly
from tests.forked import TRACKING, commands
from vae_anomaly import errors

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def section(title: str) -> str:
    """Text between a heading and the next one of any level, code blocks left whole."""
    inside: list[str] = []
    found = fenced = False
    for line in README.splitlines():
        fenced ^= line.startswith("```")
        if line.startswith("#") and not fenced:
            found = line.lstrip("# ") == title
        elif found:
            inside.append(line)
    assert inside, f"README.md has no section {title!r}"
    return "\n".join(inside)


def block(title: str) -> str:
    """The first code block of a section."""
    found = re.search(r"^```\w*\n(.*?)^```", section(title), re.DOTALL | re.MULTILINE)
    assert found is not None
    return found[1]


def first_column(title: str) -> list[str]:
    """What stands in the first column of a section's table, names without their backticks."""
    rows = [line for line in section(title).splitlines() if line.startswith("|")][2:]
    return [name for row in rows for name in row.split("|")[1].replace("`", "").strip().split(", ")]


# ── the map ──────────────────────────────────────────────────────────────────────────────────────────────────────────


# ── words and tables ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_links_lead_somewhere() -> None:
    links = re.findall(r"\]\(([^)#]+)\)", README)
    assert [link for link in links if "://" not in link and not (ROOT / link).exists()] == []


def test_exit_codes_are_those_of_the_errors() -> None:
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.VaeAnomalyError)]
    assert [int(code) for code in first_column("Exit codes")] == sorted({0, *(kind.exit_code for kind in kinds)})


def test_commands_are_those_of_the_command_line() -> None:
    from typer.main import get_command

    from vae_anomaly.cli.app import app

    commands = getattr(get_command(app), "commands", {})
    assert sorted(first_column("Commands")) == sorted(commands)
    assert [name for name, command in commands.items() if not command.help] == []


def test_options_in_the_text_exist() -> None:
    from typer.main import get_command

    from vae_anomaly.cli.app import app

    parameters = [p for command in getattr(get_command(app), "commands", {}).values() for p in command.params]
    known = {option for p in parameters for option in (*p.opts, *p.secondary_opts)}
    named = {option.rstrip("-") for option in re.findall(r"(?<![\w-])--[a-z][a-z-]*", README)}
    assert sorted(named - known - {"--help"}) == []


def test_output_columns_are_those_of_score() -> None:
    from vae_anomaly.detector.stream import RESULT_FIELDS

    assert first_column("What `score` writes") == [field.name for field in RESULT_FIELDS]


def test_public_names_are_all_named() -> None:
    sentence = section("From Python").partition("Public names:")[2].partition(".")[0]
    assert re.findall(r"`(\w+)`", sentence) == sorted(vae_anomaly.__all__)


def test_make_targets_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    text = README + (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    assert [name for name in re.findall(r"(?:^|`| {4})make ([a-z]+)", text, re.MULTILINE) if f"\n{name}:" not in makefile] == []


# ── what it tells to type ────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A new folder with the sample data in it, as a reader has it."""
    place = tmp_path_factory.mktemp("reader")
    shutil.copytree(ROOT / "data", place / "data", ignore=shutil.ignore_patterns("*.scores.*", "__pycache__"))
    return place


@pytest.mark.slow
def test_the_quick_start_runs_as_written(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    lines = block("Quick start").splitlines()
    typed = [shlex.split(line, comments=True) for line in lines]
    assert {program for program, *_ in typed} == {"vae-anomaly"}
    said = commands([(words, folder) for _, *words in typed], importing=TRACKING)
    for line, done in zip(lines, said, strict=True):
        assert (done.returncode, done.stdout != "") == (0, True), f"{line}\n{done.stdout}\n{done.stderr}"
    assert (folder / "data" / "new.scores.csv").read_text(encoding="utf-8").count("\n") == 2001
    assert (folder / "mlflow.db").exists()


@pytest.mark.slow
def test_the_python_example_runs_as_written(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    code = block("From Python")
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], cwd=folder, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "'is_anomaly': " in done.stdout
    assert vae_anomaly.load(folder / "pump-model").schema.names
