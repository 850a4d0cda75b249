"""One version: in the package, in its metadata, in the command line and in pyproject.toml."""

import importlib.metadata
import re
import tomllib
from pathlib import Path

import vae_anomaly
from vae_anomaly import _version

ROOT = Path(__file__).parents[1]


def test_the_version_is_a_release_number_that_the_public_package_has() -> None:
    assert re.fullmatch(r"\d+\.\d+\.\d+", _version.__version__)
    assert vae_anomaly.__version__ == _version.__version__
    assert "__version__" in dir(vae_anomaly)


def test_the_build_reads_the_version_from_this_file() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert ROOT / project["tool"]["hatch"]["version"]["path"] == Path(_version.__file__)
    assert project["project"]["dynamic"] == ["version"]
    assert importlib.metadata.version("vae-anomaly") == _version.__version__
