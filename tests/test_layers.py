"""The rules of the package: imports point down, pure packages stay pure, one outside system a package, names and sizes.

Walks the source with ``ast``; nothing is imported to find out. Each rule has a test of its own on source that breaks it.
"""

import ast
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from statistics import median

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "vae_anomaly"
MODULES = sorted(PACKAGE.rglob("*.py"))
IDS = [path.relative_to(PACKAGE).as_posix() for path in MODULES]

# Lowest first. A package imports itself and what stands below it; packages on one line do not import each other.
ORDER = (
    "errors _version redaction messages strict_json choices config",
    "storage schema",
    "calibration model",
    "explain",
    "detector",
    "fitting",
    "evaluation events artifact",
    "tables",
    "jobs",
    "tracking report",
    "workflow pyfunc",
    "live",
    "cli",
    "__main__",
)
RANK = {name: rank for rank, line in enumerate(ORDER) for name in line.split()}
# The modules of the lowest line may use each other, without a cycle.
GROUND = frozenset(ORDER[0].split())
PURE = ("schema", "calibration", "model", "explain", "detector", "fitting", "evaluation", "events")
# What a pure package may take from outside. Arrow values and arithmetic are welcome, Arrow's files are not.
PURE_TAKES = {"torch", "numpy", "scipy", "sklearn", "pyarrow", "pydantic"}
ARROW_FILES = {"parquet", "csv", "dataset", "fs", "feather", "json", "orc", "ipc", "flight"}
# Files, network, clock and the global seed, in the standard library.
OUTSIDE_WORLD = {
    "datetime", "glob", "http", "io", "logging", "multiprocessing", "os", "pathlib", "pickle", "random", "secrets", "shutil", "socket",
    "sqlite3", "subprocess", "tempfile", "time", "tomllib", "urllib",
}  # fmt: skip
GLOBAL_SEEDS = {"torch.manual_seed", "torch.cuda.manual_seed_all", "np.random.seed", "random.seed", "torch.use_deterministic_algorithms"}
# One outside system a package: who alone may import it.
OWNERS = {
    "mlflow": {"tracking"},
    "matplotlib": {"report"},
    "jinja2": {"report"},
    "pyarrow.fs": {"storage", "tables", "jobs"},
    "fsspec": {"storage"},
    "deltalake": {"tables"},
    "pyiceberg": {"tables"},
    "typer": {"cli"},
    "click": {"cli"},
    "rich": {"cli"},
}
# Everything else that the package imports from outside. A new name here is a new dependency: alive, permissively licensed.
SHARED_SYSTEMS = {"numpy", "pandas", "pyarrow", "scipy", "sklearn", "torch", "safetensors", "pydantic", "filelock", "markupsafe"}
# Who may import by a name in a string: the public names, the command line for its verbs, and storage for the optional fsspec.
DYNAMIC_IMPORTS = {"__init__.py", "cli/commands.py", "storage/filesystems.py"}
MOST_LINES, FEWEST_LINES, MOST_MODULES = 400, 60, 20
# Modules shorter than that, and why each is one idea all the same.
SHORT = {
    "cli/commands_live.py": "the one command that runs until its input ends",
    "__main__.py": "python -m vae_anomaly",
    "choices.py": "literals that several packages and --help share",
    "_version.py": "one number that packages below the public face need",
    "jobs/signals.py": "one idea, and no other module handles signals",
    "pyfunc.py": "the address in logged models, never moved",
    "redaction.py": "secrets in texts",
    "calibration/fdr.py": "Benjamini-Hochberg",
    "strict_json.py": "JSON to values, nothing else",
}
# Names that several modules may define: none but Python's own.
FORBIDDEN_NAMES = ("utils", "util", "helpers", "common", "base", "manager", "factory")


def package_of(path: Path) -> str:
    """Return the package, or the module at the top, that a file belongs to."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(source: str, package: str) -> Iterator[str]:
    """Every module, and every name that may be one, that a source imports anywhere, with relative imports resolved."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) + 1 - node.level] if node.level else []
            module = ".".join([*above, *filter(None, [node.module])])
            yield from (f"{module}.{alias.name}" for alias in node.names)


def points_up(source: str, package: str) -> list[str]:
    """Imports of ours that do not point down."""
    found = []
    for name in imports(source, f"vae_anomaly.{package}"):
        top, _, rest = name.partition(".")
        other = rest.split(".")[0]
        if top == "vae_anomaly" and not _may_use(package, other):
            found.append(name)
    return found


def _may_use(package: str, other: str) -> bool:
    assert package in RANK, f"{package} is a new package: give it its line in ORDER"
    if package == other or {package, other} <= GROUND:
        return True
    return other in RANK and RANK[other] < RANK[package]


def impure(source: str) -> list[str]:
    """Imports that a pure package may not have."""
    found = []
    for name in imports(source, "vae_anomaly.model"):
        top, _, rest = name.partition(".")
        inner = rest.split(".")[0]
        files = top == "pyarrow" and inner in ARROW_FILES
        known = top == "vae_anomaly" or (top not in OUTSIDE_WORLD if top in sys.stdlib_module_names else top in PURE_TAKES)
        if files or not known:
            found.append(name)
    return found


def not_owned(source: str, package: str) -> list[str]:
    """Imports of an outside system that belongs to another package."""
    names = set(imports(source, f"vae_anomaly.{package}"))
    return [
        name
        for name in sorted(names)
        for system, owners in OWNERS.items()
        if (name == system or name.startswith(f"{system}.")) and package not in owners
    ]


def cycle(graph: Mapping[str, set[str]]) -> list[str]:
    """Return one cycle of a graph, empty if it has none."""
    done: set[str] = set()

    def walk(node: str, path: tuple[str, ...]) -> list[str]:
        if node in path:
            return [*path[path.index(node) :], node]
        if node in done:
            return []
        done.add(node)
        return next((found for other in sorted(graph.get(node, ())) if (found := walk(other, (*path, node)))), [])

    return next((found for node in sorted(graph) if (found := walk(node, ()))), [])


def module_name(path: Path) -> str:
    """Return the dotted name of a module."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def at_import(nodes: Iterable[ast.stmt]) -> Iterator[ast.stmt]:
    """Every statement that runs when a module is imported, those inside if, try and with too; not what is for type checkers only."""
    for node in nodes:
        if isinstance(node, ast.If | ast.Try | ast.With) and "TYPE_CHECKING" not in ast.unparse(getattr(node, "test", ast.Constant(0))):
            yield from at_import([n for field in ("body", "orelse", "finalbody") for n in getattr(node, field, [])])
            yield from at_import(n for handler in getattr(node, "handlers", []) for n in handler.body)
        elif not isinstance(node, ast.If):
            yield node


def module_graph(sources: Mapping[str, str]) -> dict[str, set[str]]:
    """Return which of these modules each imports when it is imported itself: not inside a function, not for types only."""
    graph: dict[str, set[str]] = defaultdict(set)
    for name, source in sources.items():
        body = [n for n in at_import(ast.parse(source).body) if isinstance(n, ast.Import | ast.ImportFrom)]
        for found in imports(ast.unparse(ast.Module(body=list(body), type_ignores=[])), name.rpartition(".")[0]):
            graph[name] |= {m for m in (found, found.rpartition(".")[0]) if m in sources and m not in {name, "vae_anomaly"}}
    return graph


def public_names(source: str) -> set[str]:
    """Return the public functions, classes, constants and types that a module defines at its top."""
    found: set[str] = set()
    for node in at_import(ast.parse(source).body):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Assign):
            found |= {n.id for target in node.targets for n in ast.walk(target) if isinstance(n, ast.Name)}
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            found.add(node.target.id)
    return {name for name in found if not name.startswith("_")}


def defined_twice(sources: Mapping[str, str]) -> dict[str, list[str]]:
    """Return the public names that more than one module defines, with these modules."""
    homes: dict[str, list[str]] = defaultdict(list)
    for module, source in sources.items():
        for name in public_names(source):
            homes[name].append(module)
    return {name: sorted(modules) for name, modules in homes.items() if len(modules) > 1}


def functions(path: Path) -> Iterator[tuple[str, int]]:
    """Name and lines of every function; its docstring does not count, nor do the options in a command's signature."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            body = node.body[1:] if ast.get_docstring(node) is not None else node.body
            lines = (body[-1].end_lineno or 0) - body[0].lineno + 1 if body else 0
            signature = 0 if package_of(path) == "cli" else node.body[0].lineno - node.lineno
            yield f"{path.relative_to(ROOT)}:{node.lineno} {node.name}", lines + signature


def sources() -> dict[str, str]:
    return {module_name(path): path.read_text(encoding="utf-8") for path in MODULES}


@pytest.mark.parametrize("path", MODULES, ids=IDS)
def test_imports_point_down(path: Path) -> None:
    if path != PACKAGE / "__init__.py":  # the public names come from everywhere
        assert points_up(path.read_text(encoding="utf-8"), package_of(path)) == []


@pytest.mark.parametrize(
    ("package", "source"),
    [
        ("schema", "from vae_anomaly.storage import listing"),
        ("schema", "from vae_anomaly import model"),
        ("schema", "from ..detector import detector"),
        ("calibration", "from vae_anomaly.model.vae import Vae"),
        ("storage", "from vae_anomaly.jobs import manifest"),
        ("explain", "from vae_anomaly.detector.detector import Detector"),
        ("artifact", "from vae_anomaly.evaluation import metrics"),
        ("report", "def f():\n    from vae_anomaly.tracking import runs"),
        ("tracking", "from vae_anomaly.workflow.fit import fit_files"),
        ("workflow", "import vae_anomaly.cli.app"),
        ("config", "from vae_anomaly.schema.schema import Schema"),
        ("errors", "import vae_anomaly.detector"),
        ("fitting", "from vae_anomaly.core import fit"),
    ],
)
def test_an_import_that_points_up_is_seen(package: str, source: str) -> None:
    assert len(points_up(source, package)) == 1


@pytest.mark.parametrize(
    ("package", "source"),
    [
        ("model", "from .vae import Vae\nfrom ..config import Config\nfrom vae_anomaly.errors import DataError"),
        ("jobs", "from vae_anomaly.storage import atomic\nfrom vae_anomaly.tables.writer import write_batches"),
        ("cli", "from vae_anomaly._version import __version__\nfrom vae_anomaly.workflow.fit import fit_files"),
        ("strict_json", "from vae_anomaly.errors import ConfigError"),
    ],
)
def test_an_import_that_points_down_passes(package: str, source: str) -> None:
    assert points_up(source, package) == []


@pytest.mark.parametrize("path", [p for p in MODULES if package_of(p) in PURE], ids=[i for i in IDS if i.split("/")[0] in PURE])
def test_pure_packages_take_nothing_from_the_outside_world(path: Path) -> None:
    source = path.read_text(encoding="utf-8")
    assert impure(source) == []
    calls = {ast.unparse(n.func) for n in ast.walk(ast.parse(source)) if isinstance(n, ast.Call)}
    assert calls & {"open", "print", "input", "exec", "eval", "sys.exit", *GLOBAL_SEEDS} == set()


@pytest.mark.parametrize(
    "source",
    [
        "import mlflow",
        "import pandas as pd",
        "import typer",
        "import pyarrow.parquet as pq",
        "from pyarrow import csv",
        "from pyarrow.fs import LocalFileSystem",
        "from pathlib import Path",
        "def f():\n    import time",
    ],
)
def test_an_import_that_is_not_pure_is_seen(source: str) -> None:
    assert len(impure(source)) == 1


def test_arrow_values_and_arithmetic_are_pure() -> None:
    assert impure("import pyarrow as pa\nimport pyarrow.compute as pc\nimport torch.nn.functional as F\nfrom scipy import stats") == []


@pytest.mark.parametrize("path", MODULES, ids=IDS)
def test_an_outside_system_belongs_to_one_package(path: Path) -> None:
    assert not_owned(path.read_text(encoding="utf-8"), package_of(path)) == []


@pytest.mark.parametrize(
    ("package", "source"),
    [
        ("workflow", "def f():\n    import mlflow"),
        ("workflow", "from matplotlib.figure import Figure"),
        ("report", "from pyarrow import fs"),
        ("workflow", "import pyarrow.fs as pafs"),
        ("jobs", "from rich import print"),
        ("report", "from mlflow.tracking import MlflowClient"),
    ],
)
def test_an_outside_system_in_the_wrong_package_is_seen(package: str, source: str) -> None:
    assert len(not_owned(source, package)) == 1


def foreign(source: str) -> set[str]:
    """Top-level names of what a source imports that is neither ours nor Python's."""
    names = {name.split(".")[0] for name in imports(source, "vae_anomaly.model")}
    return {name for name in names if name not in sys.stdlib_module_names and name not in {"vae_anomaly", "__future__"}}


@pytest.mark.parametrize("path", MODULES, ids=IDS)
def test_nothing_else_is_imported_from_outside(path: Path) -> None:
    source = path.read_text(encoding="utf-8")
    assert foreign(source) <= SHARED_SYSTEMS | {system.split(".")[0] for system in OWNERS}
    assert "import_module" not in source or path.relative_to(PACKAGE).as_posix() in DYNAMIC_IMPORTS


def test_a_new_dependency_is_seen() -> None:
    assert foreign("import boto3\nimport os\nfrom numpy import array\nfrom vae_anomaly import errors") == {"boto3", "numpy"}


def test_there_is_no_cycle_of_imports() -> None:
    assert cycle(module_graph(sources())) == []


def test_a_cycle_of_imports_is_seen() -> None:
    circle = {
        "vae_anomaly.model.a": "from vae_anomaly.model import b",
        "vae_anomaly.model.b": "from vae_anomaly.model.c import f",
        "vae_anomaly.model.c": "import vae_anomaly.model.a",
        "vae_anomaly.model.d": "from vae_anomaly.model import a",
    }
    assert cycle(module_graph(circle)) == ["vae_anomaly.model.a", "vae_anomaly.model.b", "vae_anomaly.model.c", "vae_anomaly.model.a"]


def test_an_import_under_a_condition_closes_a_circle_but_one_for_types_does_not() -> None:
    source = "if sys.platform:\n    from vae_anomaly.model import b"
    types = "if TYPE_CHECKING:\n    from vae_anomaly.model import b"
    back = "try:\n    import vae_anomaly.model.a\nexcept ImportError:\n    pass"
    assert cycle(module_graph({"vae_anomaly.model.a": source, "vae_anomaly.model.b": back}))
    assert cycle(module_graph({"vae_anomaly.model.a": types, "vae_anomaly.model.b": back})) == []


def test_a_public_name_means_one_thing() -> None:
    assert defined_twice(sources()) == {}


def test_a_public_name_of_two_meanings_is_seen() -> None:
    two = {"a": "Rows = int\nclass Job: ...\ndef _f(): ...", "b": "class Job: ...\ndef _f(): ...", "c": "if True:\n    Rows: int = 1"}
    assert defined_twice(two) == {"Rows": ["a", "c"], "Job": ["a", "b"]}


def test_no_file_has_a_name_that_says_nothing() -> None:
    assert [path.name for path in MODULES if path.stem in FORBIDDEN_NAMES] == []


def lines_of(path: Path) -> int:
    return len(path.read_text(encoding="utf-8").splitlines())


@pytest.mark.parametrize("path", MODULES, ids=IDS)
def test_a_module_is_one_idea_of_readable_length(path: Path) -> None:
    name = path.relative_to(PACKAGE).as_posix()
    assert lines_of(path) <= MOST_LINES
    assert path.name == "__init__.py" or lines_of(path) >= FEWEST_LINES or SHORT.get(name), f"{name} is short; say why in SHORT"


def test_every_short_module_is_there_and_short() -> None:
    assert {name for name in SHORT if not (PACKAGE / name).exists() or lines_of(PACKAGE / name) >= FEWEST_LINES} == set()


def test_packages_are_small() -> None:
    modules = [path for path in MODULES if path.name != "__init__.py"]
    sizes: dict[Path, int] = defaultdict(int)
    for path in modules:
        sizes[path.parent] += 1
    assert {str(folder) for folder, size in sizes.items() if size > MOST_MODULES} == set()
    assert len(modules) <= 150  # rows in time are a dozen ideas of their own
    assert 100 <= median(map(lines_of, modules)) <= 220


def test_functions_are_small() -> None:
    sizes = dict(entry for path in MODULES for entry in functions(path))
    assert {name: lines for name, lines in sizes.items() if lines > 50} == {}
    assert median(sizes.values()) <= 10


def without_tests(modules: Iterable[str], tests: Iterable[str]) -> list[str]:
    """Modules (``package/name``) without ``test_NAME.py`` or ``test_NAME_topic.py``; a file belongs to the module of the longest name."""
    names = {
        f"{folder}{'/' if folder else ''}test_{name.lstrip('_')}": module
        for module in modules
        for folder, _, name in [module.rpartition("/")]
    }
    tested = {max((own for own in names if test == own or test.startswith(f"{own}_")), key=len, default="") for test in tests}
    return sorted(module for own, module in names.items() if own not in tested)


def test_the_tests_follow_the_tree() -> None:
    modules = {path.relative_to(PACKAGE).with_suffix("").as_posix() for path in MODULES if not path.stem.startswith("__")}
    tests = {path.relative_to(ROOT / "tests").with_suffix("").as_posix() for path in (ROOT / "tests").rglob("test_*.py")}
    assert without_tests(modules, tests) == []


def test_a_module_without_tests_is_seen() -> None:
    modules = ["tables/csv", "tables/csv_records", "errors"]
    assert without_tests(modules, ["tables/test_csv_records", "tables/test_csv_records_long", "test_errors"]) == ["tables/csv"]
    assert without_tests(modules, ["tables/test_csv_any", "tables/test_csv_records", "test_errors"]) == []


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
