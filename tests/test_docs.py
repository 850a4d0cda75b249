"""README.md and docs/ are true: examples parse and run, outputs are real, tables equal the code, links lead somewhere."""

import ast
import importlib.util
import json
import re
import shlex
import shutil
import tomllib
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import pytest
from typer.testing import CliRunner

import vae_anomaly
from tests.test_layers import ORDER, public_names
from vae_anomaly import errors
from vae_anomaly.cli.app import app

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
README = ROOT / "README.md"
PAGES = [README, *(ROOT / name for name in ("CONTRIBUTING.md", "data/README.md", "pipelines/README.md")), *sorted(DOCS.rglob("*.md"))]
# The pages that show outputs.
WITH_OUTPUTS = (README, DOCS / "tutorial" / "first-model.md")
# Scripts with options of their own.
SCRIPTS = ("pipelines/retrain.py", "tests/golden/make.py")
# The terms of the glossary that code and texts must keep apart.
BINDING = ("batch", "block", "checkpoint", "chunk", "destination", "job", "member", "part", "run", "view", "work folder")
# A class of this name would give a term a second meaning; place is no term at all.
NOT_A_NAME = {"Block", "Job", "Place"}
# Said of a run, these words mostly mean a process, an attempt or a job; a run is an MLflow run.
NOT_A_RUN = re.compile(r"\b(?:another|earlier|interrupted|killed|previous|resumed|second) runs?\b")
# Modules where it does mean MLflow: a killed fit leaves an unfinished run in the store.
MLFLOW_RUNS = {"tracking/recovery.py", "workflow/fit.py", "workflow/publish.py"}
README_LINES, README_WORDS, GLOSSARY_LINES, PICTURE_BYTES = 130, 900, 40, 300_000


class Fence(NamedTuple):
    """A fenced block of a page: its language and its lines."""

    language: str
    lines: tuple[str, ...]


@cache
def text(page: Path) -> str:
    return page.read_text(encoding="utf-8")


@cache
def blocks(page: Path) -> list[Fence]:
    found = re.findall(r"^```(\w*)\n(.*?)^```$", text(page), re.DOTALL | re.MULTILINE)
    return [Fence(language, tuple(body.splitlines())) for language, body in found]


@cache
def prose(page: Path) -> str:
    """A page without its fenced blocks."""
    return re.sub(r"^```\w*\n.*?^```$", "", text(page), flags=re.DOTALL | re.MULTILINE)


def typed(page: Path) -> Iterator[list[str]]:
    """The command lines of a page, as words."""
    for block in blocks(page):
        if block.language == "sh":
            yield from (words for line in block.lines if (words := shlex.split(line, comments=True)))


def rows(page: Path, heading: str) -> list[list[str]]:
    """The cells of the first table below a heading, without backticks."""
    below = prose(page).partition(f"# {heading}\n")[2]
    table = re.search(r"(?:^\|.*\n)+", below, re.MULTILINE)
    assert table is not None, f"{page.name} has no table below {heading!r}"
    return [[cell.strip().replace("`", "") for cell in line.strip("|").split("|")] for line in table[0].splitlines()[2:]]


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


# ── links and limits ─────────────────────────────────────────────────────────────────────────────────────────────────


def anchors(page: Path) -> set[str]:
    """What a page can be linked to at, by the rule that GitHub and the site share for plain headings."""
    headings = re.findall(r"^#+ (.*)$", prose(page), re.MULTILINE)
    return {re.sub(r"[\s-]+", "-", re.sub(r"[^\w\s-]", "", heading.lower()).strip()) for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_and_anchors_lead_somewhere(page: Path) -> None:
    broken = []
    for link in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if "://" in link:
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        outside = page.is_relative_to(DOCS) and not target.is_relative_to(DOCS)  # the site has nothing but docs/
        if outside or not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    assert broken == []


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_pages_are_printable(page: Path) -> None:
    assert {char for char in text(page) if not char.isprintable()} <= {"\n"}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_files_named_in_the_text_exist(page: Path) -> None:
    named = re.findall(r"`((?:benchmarks|data|docs|pipelines|tests|vae_anomaly)/[\w./-]*)`", prose(page))
    assert [path for path in named if ".scores." not in path and not (ROOT / path).exists()] == []


def test_the_readme_is_short() -> None:
    assert len(text(README).splitlines()) <= README_LINES
    assert len(text(README).split()) <= README_WORDS


def test_the_glossary_has_one_meaning_for_each_word() -> None:
    page = DOCS / "glossary.md"
    terms = rows(page, "Glossary")
    assert len(text(page).splitlines()) <= GLOSSARY_LINES
    assert [word for word, *_ in terms] == sorted({word for word, *_ in terms})
    assert [word for word, *meaning in terms if len(meaning) != 1 or len(meaning[0].split()) < 3] == []
    assert sorted(set(BINDING) - {word for word, *_ in terms}) == []
    assert "place" not in {word for word, *_ in terms}


def texts_of(source: str) -> Iterator[str]:
    """The string literals of a source, docstrings and the fixed parts of f-strings included."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield " ".join(node.value.split())


def runs_of_no_run(source: str) -> list[str]:
    """Texts that may call the execution of a job a run."""
    return [text for text in texts_of(source) if NOT_A_RUN.search(text)]


def test_the_package_keeps_to_the_glossary() -> None:
    package = {path.relative_to(ROOT / "vae_anomaly").as_posix(): text(path) for path in sorted((ROOT / "vae_anomaly").rglob("*.py"))}
    assert [(name, word) for name, source in package.items() for word in public_names(source) & NOT_A_NAME] == []
    wrong = {name: found for name, source in package.items() if (found := runs_of_no_run(source))}
    assert {name: found for name, found in wrong.items() if name not in MLFLOW_RUNS} == {}
    assert sorted(MLFLOW_RUNS - wrong.keys()) == []  # an exception that is not needed goes


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CHANGELOG.md"], ids=name_of)
def test_the_pages_keep_to_the_glossary(page: Path) -> None:
    assert NOT_A_RUN.findall(" ".join(prose(page).split())) == []


def test_a_run_that_is_none_is_found() -> None:
    assert runs_of_no_run('raise E(f"{output} is being written by another\\n run ({pid})")') == ["is being written by another run ("]
    assert runs_of_no_run('"""Left by killed runs."""\nlog("the run of MLflow", "a dry run")') == ["Left by killed runs."]


def test_every_page_is_in_the_navigation() -> None:
    def leaves(entry: Any) -> Iterator[str]:
        if isinstance(entry, str):
            yield entry
        else:
            for inner in entry.values() if isinstance(entry, dict) else entry:
                yield from leaves(inner)

    site = tomllib.loads((ROOT / "zensical.toml").read_text(encoding="utf-8"))["project"]
    assert sorted(leaves(site["nav"])) == sorted(page.relative_to(DOCS).as_posix() for page in DOCS.rglob("*.md"))


def test_the_pictures_are_small() -> None:
    pictures = [path for path in (DOCS / "images").iterdir() if path.suffix in {".png", ".svg"}]
    assert pictures
    assert [path.name for path in pictures if not 0 < path.stat().st_size < PICTURE_BYTES] == []


# ── examples, without running them ───────────────────────────────────────────────────────────────────────────────────


@cache
def command_line() -> Mapping[str, Any]:
    from typer.main import get_command

    found: Mapping[str, Any] = getattr(get_command(app), "commands", {})
    return found


def problem(words: list[str]) -> str:
    """What is wrong with a command line of an example; empty if nothing is."""
    program, *rest = words
    name = program.rpartition("/")[2]
    if name == "vae-anomaly":
        return problem_of_ours(rest)
    if name not in OTHER_PROGRAMS:
        return "no such program"
    return "" if OTHER_PROGRAMS[name](rest) else "no such target, script, extra or entry point"


def targets_exist(words: list[str]) -> bool:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    return all(f"\n{name}:" in makefile for name in words)


def extras_exist(words: list[str]) -> bool:
    named = {extra for names in re.findall(r"\[(.*)\]", " ".join(words)) for extra in names.split(",")}
    known: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    return named <= known.keys()


def entry_point_exists(words: list[str]) -> bool:
    return f"\n  {words[words.index('-e') + 1]}:" in (ROOT / "pipelines" / "MLproject").read_text(encoding="utf-8")


OTHER_PROGRAMS: Mapping[str, Callable[[list[str]], bool]] = {
    "make": targets_exist,
    "pip": extras_exist,
    "mlflow": entry_point_exists,
    "python": lambda words: words[0] == "-m" or (ROOT / words[0]).is_file(),
    "torchrun": lambda words: not problem_of_ours(words[words.index("vae_anomaly") + 1 :]),
    "source": lambda words: words == [".venv/bin/activate"],
}


def problem_of_ours(words: list[str]) -> str:
    if words[0] not in command_line():
        return f"no command {words[0]}"
    try:
        command_line()[words[0]].make_context(words[0], words[1:])
    except Exception as error:  # noqa: BLE001 (usage errors of the Click inside Typer have no public name)
        return str(error)
    files = [word for word in words if re.match(r"(data|pipelines)/", word) and ".scores." not in word]
    return next((f"no file {file}" for file in files if not (ROOT / file).exists()), "")


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_command_lines_of_the_examples_are_right(page: Path) -> None:
    assert {" ".join(words): why for words in typed(page) if (why := problem(words))} == {}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_blocks_of_data_parse(page: Path) -> None:
    for block in blocks(page):
        body = "\n".join(block.lines)
        match block.language:
            case "json":
                json.loads(body)
            case "toml":
                tomllib.loads(body)
            case "sh" | "text" | "python" | "pycon":
                pass
            case other:
                pytest.fail(f"a block of {other or 'no language'}: {body[:40]}")


def test_options_in_the_text_exist() -> None:
    parameters = [parameter for command in command_line().values() for parameter in command.params]
    known = {option for parameter in parameters for option in (*parameter.opts, *parameter.secondary_opts)}
    known |= {option for script in SCRIPTS for option in re.findall(r"--[a-z-]+", (ROOT / script).read_text(encoding="utf-8"))}
    named = {(name_of(page), option) for page in PAGES for option in re.findall(r"(?<![\w-])--[a-z][a-z-]*[a-z]", prose(page))}
    assert sorted((page, option) for page, option in named if option not in known | {"--help"}) == []


# ── tables ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_exit_codes_are_those_of_the_errors() -> None:
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.VaeAnomalyError)]
    assert [int(code) for code, _ in rows(DOCS / "reference" / "exit-codes.md", "Exit codes")] == sorted({0, *(k.exit_code for k in kinds)})


def test_output_columns_are_those_of_score() -> None:
    from vae_anomaly.detector.stream import RESULT_FIELDS
    from vae_anomaly.explain.contributions import FEATURE

    page = DOCS / "reference" / "output-columns.md"
    kinds = [(name, kind) for name, kind, _ in rows(page, "Output columns")]
    assert kinds == [(field.name, str(field.type).partition("<")[0]) for field in RESULT_FIELDS]
    assert [name for name, _ in rows(page, "top_features")] == [field.name for field in FEATURE]


def test_every_command_has_help_and_a_section() -> None:
    assert [name for name, command in command_line().items() if not command.help] == []
    headings = re.findall(r"^## (.*)$", prose(DOCS / "reference" / "commands.md"), re.MULTILINE)
    assert headings == list(command_line())


def test_every_public_name_has_a_section() -> None:
    headings = re.findall(r"^## (.*)$", prose(DOCS / "reference" / "python-api.md"), re.MULTILINE)
    assert headings == vae_anomaly.__all__


def test_every_package_has_its_line_and_its_rank() -> None:
    packages = sorted(path.parent for path in (ROOT / "vae_anomaly").glob("*/__init__.py"))
    said = {path.name: (ast.get_docstring(ast.parse(text(path / "__init__.py"))) or "").partition("\n")[0] for path in packages}
    page = DOCS / "explanation" / "architecture.md"
    assert dict(rows(page, "Packages")) == said
    assert next(block.lines for block in blocks(page) if block.language == "text") == tuple(" · ".join(line.split()) for line in ORDER)


@pytest.fixture(scope="module")
def generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generate", DOCS / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_generated_pages_are_up_to_date(generator: ModuleType) -> None:
    """If this fails: python docs/generate.py."""
    assert [path.name for path, written in generator.pages().items() if text(path) != written] == []


# ── examples that run ────────────────────────────────────────────────────────────────────────────────────────────────


def shown_outputs(page: Path) -> Iterator[tuple[str, Fence]]:
    """Every command line that is followed by its output, and that output."""
    for block, after in pairwise(blocks(page)):
        if block.language == "sh" and after.language == "text":
            yield shlex.join(shlex.split(block.lines[-1], comments=True)), after


def shape(line: str) -> str:
    """A line of output with its numbers and widths taken out, which differ from machine to machine."""
    return " ".join(re.sub(r"\d[\d,.]*", "0", line).split())


def invented(shown: Fence, output: str) -> list[str]:
    """The lines of a block that are not in the output, in its order; whole lines of that may be left out."""
    lines, start, found = [shape(line) for line in output.splitlines()], 0, []
    for line in shown.lines:
        if shape(line) in lines[start:]:
            start = lines.index(shape(line), start) + 1
        else:
            found.append(line)
    return found


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A new folder with the sample data in it, as a reader has it."""
    shutil.copytree(ROOT / "data", tmp_path / "data", ignore=shutil.ignore_patterns("*.scores.*", "__pycache__"))
    return tmp_path


@pytest.mark.slow
def test_outputs_are_real(folder: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every command line whose output is shown runs as it is written, once, in the order of the pages."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(folder)
    shutil.copy(empty_store, folder / "mlflow.db")  # MLflow takes seconds to make its tables
    shown = [(page, line, output) for page in WITH_OUTPUTS for line, output in shown_outputs(page)]
    lines = list(dict.fromkeys(line for _, line, _ in shown))
    assert {"fit", "score", "evaluate", "explain"} <= {shlex.split(line)[1] for line in lines}
    # In this process: the imports of a new one take as long as the commands.
    results = {line: CliRunner().invoke(app, shlex.split(line)[1:]) for line in lines}
    assert {line: result.stderr for line, result in results.items() if result.exit_code} == {}
    assert (folder / "data" / "new.scores.csv").read_text(encoding="utf-8").count("\n") == 2001
    wrong = {(name_of(page), line): invented(output, results[line].stderr + results[line].stdout) for page, line, output in shown}
    assert {where: lines for where, lines in wrong.items() if lines} == {}


@pytest.mark.slow
def test_the_python_example_runs_as_written(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    code = next(block.lines for block in blocks(DOCS / "how-to" / "use-from-python.md") if block.language == "python")
    monkeypatch.chdir(folder)
    exec("\n".join(code), {"__name__": "__main__"})  # noqa: S102 (our own page)
    assert "'is_anomaly': " in capsys.readouterr().out
    assert vae_anomaly.load(Path("pump-model")).schema.names
