"""The picture of the layers stays true: imports point down only, core stays pure, functions and modules stay small.

Walks the ``import`` statements with ``ast``; nothing is imported to find out.
"""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from statistics import median

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "vae_anomaly"
MODULES = sorted(PACKAGE.rglob("*.py"))
IDS = [path.relative_to(PACKAGE).as_posix() for path in MODULES]

# The face is what people meet; each layer with what it may import from ours.
FACE = (
    "cli",
    "cli_calibrate",
    "cli_upload",
    "looking",
    "options",
    "options_score",
    "options_numbers",
    "help",
    "summary",
    "summary_calibrate",
    "summary_score",
    "rows",
    "layout",
    "streams",
    "terminal",
    "__main__",
)
BELOW = {
    "errors": (),
    "redact": (),
    "plain": (),
    "config": ("errors",),
    "core": ("core", "config", "errors", "plain", "redact"),
    "edges": ("edges", "core", "config", "errors", "redact", "__version__"),
    "workflow": ("workflow", "edges", "core", "config", "errors", "redact", "__version__"),
    "pyfunc": ("edges",),  # the fixed import path of logged models; not part of the face
    **dict.fromkeys(FACE, (*FACE, "workflow", "core", "config", "errors", "redact", "__version__")),
}
# What core may take from outside. Arrow values and arithmetic are welcome, Arrow's files are not.
CORE_TAKES = {"torch", "numpy", "scipy", "sklearn", "pyarrow"}
ARROW_FILES = {"parquet", "csv", "dataset", "fs", "feather", "json", "orc", "ipc", "flight"}
# Files, network, clock and the global seed, in the standard library.
OUTSIDE_WORLD = {
    "datetime", "glob", "http", "io", "logging", "multiprocessing", "os", "pathlib", "pickle", "random", "secrets", "shutil", "socket",
    "sqlite3", "subprocess", "tempfile", "time", "tomllib", "urllib",
}  # fmt: skip
GLOBAL_SEEDS = {"torch.manual_seed", "torch.cuda.manual_seed_all", "np.random.seed", "random.seed", "torch.use_deterministic_algorithms"}
# Whose signatures are the options of commands.
COMMANDS = {"cli.py", "cli_calibrate.py", "cli_upload.py", "looking.py"}
FORBIDDEN_NAMES = ("utils", "util", "helpers", "common", "base", "manager", "factory")


def imports(tree: ast.AST, package: str) -> Iterator[str]:
    """Every module, and every name that may be one, that a file imports anywhere, with relative imports resolved."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) + 1 - node.level] if node.level else []
            module = ".".join([*above, *filter(None, [node.module])])
            yield from (f"{module}.{alias.name}" for alias in node.names)


def violations(source: str, layer: str, package: str = "vae_anomaly") -> list[str]:
    """Imports of a file that its layer may not have."""
    found = []
    for name in imports(ast.parse(source), package):
        top, _, rest = name.partition(".")
        part = rest.split(".")[0]
        ours = top == "vae_anomaly" and part not in BELOW[layer]
        foreign = layer == "core" and top != "vae_anomaly" and not _core_may_take(top, part)
        if ours or foreign:
            found.append(name)
    return found


def _core_may_take(top: str, part: str) -> bool:
    if top in sys.stdlib_module_names:
        return top not in OUTSIDE_WORLD
    return top in CORE_TAKES and not (top == "pyarrow" and part in ARROW_FILES)


def layer_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def functions(path: Path) -> Iterator[tuple[str, int]]:
    """Name and lines of every function; its docstring does not count, nor do the options in a command's signature."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            body = node.body[1:] if ast.get_docstring(node) is not None else node.body
            lines = (body[-1].end_lineno or 0) - body[0].lineno + 1 if body else 0
            signature = 0 if path.name in COMMANDS else node.body[0].lineno - node.lineno
            yield f"{path.relative_to(ROOT)}:{node.lineno} {node.name}", lines + signature


@pytest.mark.parametrize("path", MODULES, ids=IDS)
def test_imports_point_down(path: Path) -> None:
    layer = layer_of(path)
    if layer != "__init__":  # the public names come from everywhere
        package = ".".join(path.relative_to(ROOT).parent.parts)
        assert violations(path.read_text(encoding="utf-8"), layer, package) == []


@pytest.mark.parametrize(
    ("layer", "source"),
    [
        ("core", "import mlflow"),
        ("core", "import pandas as pd"),
        ("core", "import typer"),
        ("core", "import pyarrow.parquet as pq"),
        ("core", "from pyarrow import csv"),
        ("core", "from pyarrow.fs import LocalFileSystem"),
        ("core", "from pathlib import Path"),
        ("core", "def f():\n    import time"),
        ("core", "from vae_anomaly import edges"),
        ("core", "from ..edges import tables"),
        ("core", "from ..edges.tables import open_source"),
        ("core", "from vae_anomaly.workflow.fit import fit"),
        ("edges", "from vae_anomaly.workflow import fit"),
        ("edges", "import vae_anomaly.cli"),
        ("workflow", "from vae_anomaly.terminal import show"),
        ("cli", "from vae_anomaly.edges.artifact import load"),
        ("config", "from vae_anomaly.core.schema import Schema"),
        ("errors", "import vae_anomaly.config"),
        ("pyfunc", "from vae_anomaly.core.detector import Detector"),
        ("edges", "from vae_anomaly.pyfunc import AnomalyModel"),
    ],
)
def test_the_walk_sees_an_import_that_points_up(layer: str, source: str) -> None:
    assert len(violations(source, layer, f"vae_anomaly.{layer}")) == 1


@pytest.mark.parametrize(
    ("layer", "source"),
    [
        ("core", "import pyarrow as pa\nimport pyarrow.compute as pc\nimport torch.nn.functional as F"),
        ("core", "from .vae import Vae\nfrom ..config import Config\nfrom vae_anomaly.errors import DataError"),
        ("edges", "from pathlib import Path\nimport mlflow\nfrom vae_anomaly.core.schema import Schema"),
        ("workflow", "from vae_anomaly.edges import tables\nfrom vae_anomaly.core import fit"),
        ("cli", "from vae_anomaly import summary, __version__\nfrom vae_anomaly.workflow.fit import fit"),
        ("pyfunc", "from vae_anomaly.edges.pyfunc import AnomalyModel"),
    ],
)
def test_the_walk_lets_an_import_pass_that_points_down(layer: str, source: str) -> None:
    assert violations(source, layer, f"vae_anomaly.{layer}") == []


@pytest.mark.parametrize("path", [p for p in MODULES if layer_of(p) == "core"], ids=[i for i in IDS if i.startswith("core/")])
def test_core_opens_no_file_and_sets_no_global_seed(path: Path) -> None:
    calls = {ast.unparse(n.func) for n in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(n, ast.Call)}
    assert calls & {"open", "print", "input", "exec", "eval", "sys.exit", *GLOBAL_SEEDS} == set()


def test_no_file_has_a_name_that_says_nothing() -> None:
    assert [path.name for path in MODULES if path.stem in FORBIDDEN_NAMES] == []


@pytest.mark.parametrize("path", MODULES, ids=IDS)
def test_a_module_fits_in_three_hundred_lines(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 300


def test_functions_are_small() -> None:
    sizes = dict(entry for path in MODULES for entry in functions(path))
    assert {name: lines for name, lines in sizes.items() if lines > 50} == {}
    assert median(sizes.values()) <= 10


@pytest.mark.parametrize("command", [["--help"], ["fit", "--help"], ["--version"]], ids=" ".join)
def test_help_loads_nothing_heavy(command: list[str]) -> None:
    done = subprocess.run([sys.executable, "-X", "importtime", "-m", "vae_anomaly", *command], capture_output=True, text=True, check=True)
    loaded = {line.rsplit("|", 1)[1].strip().split(".")[0] for line in done.stderr.splitlines() if line.startswith("import time:")}
    assert "vae_anomaly" in loaded
    assert loaded & {"torch", "mlflow", "pandas", "sklearn", "pyarrow", "scipy", "matplotlib"} == set()


def test_importing_the_package_loads_nothing_heavy_and_its_names_resolve() -> None:
    code = (
        "import sys, vae_anomaly\n"
        "print(sorted({'torch', 'mlflow', 'pandas', 'sklearn', 'pyarrow', 'pydantic'} & set(sys.modules)))\n"
        "for name in vae_anomaly.__all__: getattr(vae_anomaly, name)\n"
        "assert set(vae_anomaly.__all__) <= set(dir(vae_anomaly))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_an_unknown_public_name_is_an_attribute_error() -> None:
    import vae_anomaly

    with pytest.raises(AttributeError, match=r"^module 'vae_anomaly' has no attribute 'Trainer'$"):
        _ = vae_anomaly.Trainer
