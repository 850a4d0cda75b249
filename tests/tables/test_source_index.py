"""What files say of their columns reaches the schema: the index of pandas, in all files or some, unnamed first columns, folders."""

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow import feather

from vae_anomaly.config import DataConfig
from vae_anomaly.errors import SchemaMismatch
from vae_anomaly.schema.schema import Schema, infer_schema
from vae_anomaly.tables.source import open_source

ROWS = 120


@pytest.fixture(autouse=True)
def _inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def frame(seed: int = 0) -> pd.DataFrame:
    generator = np.random.default_rng(seed)
    return pd.DataFrame({"temp": generator.normal(20, 1, ROWS), "flow": generator.normal(5, 1, ROWS)})


def fitted(*paths: str, **options: tuple[str, ...]) -> Schema:
    return infer_schema(open_source(paths).read_table(), DataConfig(**options))  # type: ignore[arg-type]


def write(data: pd.DataFrame, path: str) -> None:
    if path.endswith("csv"):
        data.to_csv(path)
    elif path.endswith("feather"):
        feather.write_feather(pa.Table.from_pandas(data), path)
    else:
        data.to_parquet(path)


@pytest.mark.parametrize("path", ["a.parquet", "a.feather", "a.csv"])
def test_a_shuffled_frame_gives_its_measurements_alone(path: str) -> None:
    write(frame().sample(frac=0.7, random_state=1), path)
    schema = fitted(path)
    assert schema.names == ("temp", "flow")
    assert len(schema.dropped) == 1


def test_an_index_that_the_user_named_is_none_either_and_comes_back() -> None:
    write(frame().set_axis(pd.Index(np.arange(ROWS) % 7, name="machine")), "a.parquet")
    assert fitted("a.parquet").names == ("temp", "flow")
    assert fitted("a.parquet", include=("machine",)).names == ("temp", "flow", "machine")


@pytest.mark.parametrize("suffix", ["parquet", "csv"])
@pytest.mark.parametrize("first", [0, 1])
def test_one_file_may_lack_the_index(suffix: str, first: int) -> None:
    write(frame().sample(frac=1, random_state=1), f"with.{suffix}")
    if suffix == "csv":
        frame(1).to_csv("without.csv", index=False)
    else:
        frame(1).to_parquet("without.parquet")
    paths = (f"with.{suffix}", f"without.{suffix}")
    schema = fitted(*paths[:: -1 if first else 1])
    assert set(schema.names) == {"temp", "flow"}
    assert len(schema.dropped) == 1


def test_one_file_without_metadata_makes_no_input_of_an_index() -> None:
    data = frame().set_axis(pd.Index(np.random.default_rng(2).integers(0, 9, ROWS), name="pos"))
    write(data, "a.parquet")
    pq.write_table(pa.Table.from_pandas(data).replace_schema_metadata(), "b.parquet")
    assert set(fitted("b.parquet", "a.parquet").names) == {"temp", "flow"}


def test_a_measurement_that_one_file_lacks_is_still_refused() -> None:
    write(frame(), "a.parquet")
    write(frame().drop(columns="flow"), "b.parquet")
    with pytest.raises(SchemaMismatch, match=r"b\.parquet lacks columns that a\.parquet has: 'flow'"):
        fitted("a.parquet", "b.parquet")


def test_folders_of_the_calendar_are_no_inputs_and_others_are() -> None:
    for day in ("07", "08"):
        for line in ("A", "B"):
            path = Path(f"lake/year=2024/month=03/day={day}/line={line}")
            path.mkdir(parents=True)
            frame(int(day)).to_parquet(path / "part.parquet")
    assert fitted("lake").names == ("temp", "flow", "line")
