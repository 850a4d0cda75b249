"""The sample data are what data/README.md says, and make_samples.py writes them again byte for byte."""

import hashlib
import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

DATA = Path(__file__).parents[1] / "data"
FILES = ("normal.parquet", "new.csv", "labelled.parquet")


def read(path: Path) -> pa.Table:
    if path.suffix == ".parquet":
        return pq.read_table(path)
    options = pyarrow.csv.ConvertOptions(strings_can_be_null=True, quoted_strings_can_be_null=False)
    return pyarrow.csv.read_csv(path, convert_options=options)


@pytest.fixture(scope="module")
def samples() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_samples", DATA / "make_samples.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def again(samples: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("samples")
    samples.write(folder)
    return folder


@pytest.mark.parametrize("name", FILES)
def test_the_script_writes_the_same_again(again: Path, name: str) -> None:
    assert read(again / name).equals(read(DATA / name))
    if name.endswith(".csv") or pq.read_metadata(again / name).created_by == pq.read_metadata(DATA / name).created_by:
        old, new = (hashlib.sha256((folder / name).read_bytes()).hexdigest() for folder in (DATA, again))
        assert new == old


@pytest.mark.parametrize(("name", "rows"), [("normal.parquet", 20_000), ("new.csv", 2_000), ("labelled.parquet", 5_000)])
def test_sizes(name: str, rows: int) -> None:
    assert read(DATA / name).num_rows == rows
    assert (DATA / name).stat().st_size < 1_000_000


@pytest.mark.parametrize("name", FILES)
def test_one_cell_in_a_hundred_is_missing_but_no_key(name: str) -> None:
    table = read(DATA / name)
    share = {column: table[column].null_count / table.num_rows for column in table.column_names}
    whole = {"timestamp", "machine_id", "fault", "comment"}
    assert {column for column, lost in share.items() if lost == 0} == whole & set(table.column_names)
    assert np.mean([lost for lost in share.values() if lost]) == pytest.approx(0.01, abs=0.0015)


def test_the_readme_names_every_column_and_every_fault(samples: ModuleType) -> None:
    text = (DATA / "README.md").read_text(encoding="utf-8")
    columns = {column for name in FILES for column in read(DATA / name).column_names}
    assert [column for column in sorted(columns) if f"\n| `{column}` |" not in text] == []
    for fault, wrong in samples.FAULTS.items():
        line = next(line for line in text.splitlines() if line.startswith(f"| `{fault}` |"))
        assert line.rsplit("|", 2)[1].strip() == ", ".join(f"`{column}`" for column in wrong)


def test_every_fault_is_there_and_only_where_it_belongs(samples: ModuleType) -> None:
    counts = {row["values"]: row["counts"] for row in read(DATA / "labelled.parquet")["fault"].value_counts().to_pylist()}
    assert set(counts) == {"normal", *samples.FAULTS}
    assert min(counts.values()) >= 80
    assert "fault" not in read(DATA / "normal.parquet").column_names
    assert "fault" not in read(DATA / "new.csv").column_names


def test_the_operating_point_solves_pump_and_pipe(samples: ModuleType) -> None:
    """Without a leak the flow has a closed form: Q² = (H0 s² − Hs) / (a + k)."""
    machine = samples.MACHINES[0]
    speed, pipe, none = np.array([1800.0, 2900.0]), np.array([5e-4, 5e-5]), np.zeros(2)
    head, flow = samples.operating_point(machine, speed, pipe, none, none)
    bend = 0.23 * machine.head / machine.best_flow**2
    squared = (machine.head * (speed / 2900) ** 2 - machine.static_head) / (bend + pipe)
    np.testing.assert_allclose(flow, np.sqrt(squared), rtol=1e-9)
    np.testing.assert_allclose(head, machine.static_head + pipe * squared, rtol=1e-9)


def test_a_leak_lowers_head_and_metered_flow(samples: ModuleType) -> None:
    machine, one = samples.MACHINES[0], np.ones(1)
    head, flow = samples.operating_point(machine, 2900 * one, 5e-5 * one, 0 * one, 0 * one)
    leaking_head, leaking_flow = samples.operating_point(machine, 2900 * one, 5e-5 * one, 0 * one, samples.LEAK * one)
    assert leaking_head[0] < head[0] - 1
    assert leaking_flow[0] < flow[0] - 10


def test_the_stuck_meter_repeats_one_reading() -> None:
    table = read(DATA / "labelled.parquet").filter(pc.field("fault") == "stuck_sensor")
    for machine in ("P1", "P2", "P3", "P4"):
        assert pc.count_distinct(table.filter(pc.field("machine_id") == machine)["flow_l_min"]).as_py() == 1


def test_nearest_neighbours_find_the_faults_but_not_for_free() -> None:
    """The faults are detectable and not trivial, as data/README.md says: five neighbours give 0.98, the leak 0.91."""
    from sklearn.metrics import roc_auc_score
    from sklearn.neighbors import NearestNeighbors

    normal, labelled = (pq.read_table(DATA / f"{name}.parquet").to_pandas() for name in ("normal", "labelled"))
    numbers = normal.select_dtypes("float").columns
    levels = [(column, level) for column in ("mode", "machine_id") for level in sorted(set(normal[column].dropna()))]

    def encode(frame: pd.DataFrame) -> npt.NDArray[np.float64]:
        scaled: npt.NDArray[np.float64] = ((frame[numbers] - normal[numbers].mean()) / normal[numbers].std()).fillna(0).to_numpy()
        return np.column_stack([scaled, *((frame[column] == level).to_numpy(dtype=float) for column, level in levels)])

    neighbours = NearestNeighbors(n_neighbors=5).fit(encode(normal))
    score = neighbours.kneighbors(encode(labelled))[0].mean(axis=1)
    fault = labelled["fault"].to_numpy()
    assert roc_auc_score(fault != "normal", score) == pytest.approx(0.976, abs=0.01)
    leak = (fault == "leak") | (fault == "normal")
    assert roc_auc_score(fault[leak] == "leak", score[leak]) == pytest.approx(0.906, abs=0.02)
