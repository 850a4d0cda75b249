"""The way of a table through ``score``: few functions between the command and the first tensor, few modules in all."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.golden.make import ARTIFACT, GOLDEN, ROWS

ROOT = Path(__file__).parents[1]
# From cli.score, which does not count, to schema.encoding.encode, which does, over the threads that the way takes.
MOST_FUNCTIONS = 8
MOST_MODULES = 45
# Scores the golden rows twice in one process; the second time, when every module is imported, the functions are recorded.
TRACER = """
import json, os, sys, threading
from pathlib import Path

import vae_anomaly
from vae_anomaly.cli.app import main

package = str(Path(vae_anomaly.__file__).parent)
before, modules, way = {}, set(), []

def name(code):
    return f"{Path(code.co_filename).relative_to(package).as_posix()}:{code.co_qualname}"

def stack(frame):
    names = []
    while frame is not None:
        if frame.f_code.co_filename.startswith(package):
            names.append(name(frame.f_code))
        frame = frame.f_back
    return names[::-1]

def here(frame):
    return before.get(id(threading.current_thread()), []) + stack(frame)

def look(frame, event, arg):
    if event != "call":
        return
    if frame.f_code is threading.Thread.start.__code__:  # the way goes on in the new thread
        before[id(frame.f_locals["self"])] = here(frame)
    if frame.f_code.co_filename.startswith(package):
        modules.add(Path(frame.f_code.co_filename).relative_to(package).as_posix())
        if frame.f_code.co_name == "encode" and not way:
            way.extend(here(frame))

def score(output):
    sys.argv = ["vae-anomaly", "score", sys_argv[1], "-m", sys_argv[2], "-o", output]
    try:
        main()
    except SystemExit as done:
        assert not done.code, done.code

sys_argv = sys.argv
score("warm.csv")
threading.setprofile(look)
sys.setprofile(look)
score("out.csv")
sys.setprofile(None)
Path("found.json").write_text(json.dumps({"modules": sorted(modules), "way": way}))
"""


@pytest.fixture(scope="module")
def traced(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    folder, golden = tmp_path_factory.mktemp("traced"), GOLDEN / "format-1"
    command = [sys.executable, "-c", TRACER, str(golden / ROWS), str(golden / ARTIFACT)]
    subprocess.run(command, cwd=folder, check=True, capture_output=True, env={"PYTHONPATH": str(ROOT), "PATH": ""})
    assert (folder / "out.csv").read_bytes() == (folder / "warm.csv").read_bytes()
    found: dict[str, list[str]] = json.loads((folder / "found.json").read_text())
    return found


def test_few_functions_stand_between_the_command_and_the_first_tensor(traced: dict[str, list[str]]) -> None:
    way = traced["way"]
    start = next(i for i, function in enumerate(way) if function.startswith("cli/") and function.endswith(":score"))
    assert way[-1] == "schema/encoding.py:encode"
    assert len(way[start + 1 :]) <= MOST_FUNCTIONS, way[start:]


def test_few_modules_take_part_in_a_score(traced: dict[str, list[str]]) -> None:
    assert len(traced["modules"]) <= MOST_MODULES, traced["modules"]


FIT = """
import sys
from vae_anomaly.cli.app import app
try:
    app(["fit", sys.argv[1], "--no-tracking", "-o", "m", "--steps", "5", "--quiet"])
except SystemExit as done:
    assert done.code == 0
print(*sorted({"pandas", "mlflow"} & sys.modules.keys()))
"""


def test_a_fit_that_is_not_tracked_imports_neither_pandas_nor_mlflow(tmp_path: Path) -> None:
    command = [sys.executable, "-c", FIT, str(ROOT / "data" / "normal.parquet")]
    environment = {"PYTHONPATH": str(ROOT), "PATH": ""}
    assert subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=environment, check=True).stdout.split() == []


LIMITED = """
import sys
from vae_anomaly.cli import terminal
from vae_anomaly.cli.app import app
limit = terminal.limit_preallocation
def look():
    print("pyarrow" in sys.modules)
    limit()
terminal.limit_preallocation = look
try:
    app(["fit", sys.argv[1], "--no-tracking", "-o", "m", "--steps", "5", "--quiet", "--memory-limit", "4GB"])
except SystemExit as done:
    assert done.code == 0
"""


def test_memory_is_limited_before_arrow_is_loaded(tmp_path: Path) -> None:
    command = [sys.executable, "-c", LIMITED, str(ROOT / "data" / "normal.parquet")]
    environment = {"PYTHONPATH": str(ROOT), "PATH": ""}
    assert subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=environment, check=True).stdout.split() == ["False"]


LOADER = """
import sys
if sys.argv.pop(1) == "with pandas":
    import pandas
from vae_anomaly.cli.app import app
try:
    app(["score", *sys.argv[1:], "--quiet", "-o", "out.csv"])
except SystemExit as done:
    assert done.code == 0
print(*sorted({"pandas", "scipy", "mlflow"} & sys.modules.keys()))
"""


@pytest.mark.parametrize(("before", "loaded"), [("alone", ""), ("with pandas", "pandas")])
def test_a_score_with_a_model_in_a_folder_imports_neither_pandas_nor_scipy(tmp_path: Path, before: str, loaded: str) -> None:
    """Each takes a tenth of the time of a small scoring; a process that has pandas already keeps it."""
    golden = GOLDEN / "format-1"
    command = [sys.executable, "-c", LOADER, before, str(golden / ROWS), "-m", str(golden / ARTIFACT)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env={"PYTHONPATH": str(ROOT), "PATH": ""}, check=True)
    assert done.stdout.split() == loaded.split()
    assert (tmp_path / "out.csv").exists()
