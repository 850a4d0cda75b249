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


def test_the_lowest_versions_that_are_tried_are_the_floors_of_the_ranges() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    ranges = [*project["dependencies"], *(line for extra in ("cloud", "delta", "iceberg", "test") for line in extras[extra])]
    floors = []
    for line in ranges:
        if not line.startswith(project["name"]):
            found = re.fullmatch(r"([\w-]+)(?:\[\w+\])?>=(\d+\.\d+\.\d+)(?:,<[\d.]+)?", line)
            assert found is not None, f"a floor is one release: {line}"
            floors.append(f"{found[1]}=={found[2]}")
    pins = (ROOT / "constraints-lowest.txt").read_text(encoding="utf-8").splitlines()
    assert sorted(line for line in pins if not line.startswith("#")) == sorted(floors)
