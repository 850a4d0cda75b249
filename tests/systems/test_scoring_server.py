"""``mlflow models serve``: the scoring server, asked over HTTP in every format that it takes."""

import io
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.server import free_port
from tests.systems.bodies import BODIES, csv_text
from tests.systems.conftest import BATCHES, MODEL, System, new_rows, plant, results

pytestmark = [pytest.mark.systems, pytest.mark.filterwarnings("ignore")]
SECONDS = 180
Asked = Callable[[bytes, str], tuple[int, Any]]


@pytest.fixture(scope="module")
def ask(system: System) -> Iterator[Asked]:
    """Return a function that posts a body of a type to a server, and gives its status and answer."""
    port = free_port()
    command = [sys.executable, "-m", "mlflow", "models", "serve", "-m", MODEL, "--env-manager", "local", "-h", "127.0.0.1", "-p", str(port)]
    with (system.folder / "serve.log").open("w") as log:
        process = subprocess.Popen(command, cwd=system.folder, env=system.environment, stdout=log, stderr=log, start_new_session=True)
        try:
            _wait_for(f"http://127.0.0.1:{port}/ping", process, system.folder / "serve.log")
            yield lambda body, kind: _post(f"http://127.0.0.1:{port}/invocations", body, kind)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, 15)
            process.wait(timeout=30)


def _wait_for(uri: str, process: subprocess.Popen[bytes], log: Path) -> None:
    until = time.monotonic() + SECONDS
    while True:
        try:
            with urlopen(uri, timeout=5):  # noqa: S310  # our own server on this machine
                return
        except OSError:
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < until, log.read_text()
            time.sleep(0.3)


def _post(uri: str, body: bytes, kind: str) -> tuple[int, Any]:
    try:
        with urlopen(Request(uri, data=body, headers={"Content-Type": kind}), timeout=60) as answer:  # noqa: S310  # the same
            return answer.status, json.loads(answer.read())
    except HTTPError as error:
        told = json.loads(error.read())
        # Beside these two MLflow gives its own code twice more; whatever else was there, such as a stack trace, would fail a test.
        return error.code, {name: value for name, value in told.items() if name not in {"sqlstate", "error_class"}}


def _json(ask: Asked, body: dict[str, Any], **params: Any) -> tuple[int, Any]:
    return ask(json.dumps(body | ({"params": params} if params else {})).encode(), "application/json")


@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("form", BODIES)
def test_json_gets_the_scores_of_the_command_line(system: System, ask: Asked, form: str, batch: str) -> None:
    rows = BATCHES[batch]
    status, answer = _json(ask, BODIES[form](rows))
    assert status == 200, answer
    assert results(answer["predictions"]) == system.scores(rows)


def test_csv_gets_the_scores_of_the_command_line(system: System, ask: Asked) -> None:
    status, answer = ask(csv_text(new_rows()), "text/csv")
    assert status == 200, answer
    assert results(answer["predictions"]) == system.scores(new_rows(), kind="csv") == system.scores(new_rows())


def test_a_csv_whose_rows_end_with_a_delimiter_is_never_scored_under_other_names(ask: Asked) -> None:
    lines = csv_text(plant(20, 4, holes=0).select(["flow", *plant(1, 1).drop_columns("flow").column_names])).splitlines()
    status, answer = ask(b"\n".join([lines[0], *(line + b"," for line in lines[1:])]), "text/csv")
    assert (status, answer["error_code"]) == (400, "INVALID_PARAMETER_VALUE")
    assert "without a name and nothing in its last column 'fuel'. pandas reads a CSV like this whose rows end with a" in answer["message"]


def test_levels_that_pandas_takes_for_missing_need_json_or_parquet(system: System, ask: Asked) -> None:
    status, answer = ask(csv_text(plant(40, 3)), "text/csv")
    gone = plant(40, 3).to_pandas().assign(fuel=lambda t: t["fuel"].where(t["fuel"] == "gas", None))
    assert (status, results(answer["predictions"])) == (200, system.scores(pa.Table.from_pandas(gone, preserve_index=False)))


def test_parquet_gets_the_scores_of_the_command_line(system: System, ask: Asked) -> None:
    out = io.BytesIO()
    pq.write_table(plant(40, 3), out)
    status, answer = ask(out.getvalue(), "application/vnd.apache.parquet")
    assert status == 200, answer
    assert results(answer["predictions"]) == system.scores(plant(40, 3))


def test_a_column_of_records_without_a_single_key_is_absent(system: System, ask: Asked) -> None:
    rows = plant(5, 4, holes=0).drop_columns("rpm")
    assert _json(ask, BODIES["records without missing keys"](rows)) == (400, _refused(system.refusal(rows)))


def test_parameters_are_those_of_the_command_line(system: System, ask: Asked) -> None:
    status, answer = _json(ask, BODIES["dataframe_split"](new_rows()), alpha=0.2, explain="all", top=2)
    assert status == 200, answer
    assert results(answer["predictions"]) == system.scores(new_rows(), "--alpha", "0.2", "--explain", "all", "--top", "2")


def _refused(line: str) -> dict[str, Any]:
    return {"error_code": "INVALID_PARAMETER_VALUE", "message": line}


def _changed(name: str, value: Any) -> pa.Table:
    rows = new_rows()
    cells = rows.column(name).to_pylist()
    cells[2] = value
    return rows.set_column(rows.column_names.index(name), name, pa.array([None if c is None else type(value)(c) for c in cells]))


REFUSED = {
    "renamed": new_rows().rename_columns({"flow": "Flow"}),
    "absent": new_rows().drop_columns(["valve", "mode"]),
    "text in a number column": _changed("flow", "broken"),
    "infinite": _changed("pressure", float("inf")),
}


@pytest.mark.parametrize("form", ["csv", *BODIES])
@pytest.mark.parametrize("change", REFUSED)
def test_what_the_command_line_refuses_is_400_with_its_line(system: System, ask: Asked, form: str, change: str) -> None:
    rows = REFUSED[change]
    status, answer = ask(csv_text(rows), "text/csv") if form == "csv" else _json(ask, BODIES[form](rows))
    assert (status, answer) == (400, _refused(system.refusal(rows)))


@pytest.mark.parametrize(
    ("params", "line"),
    [
        ({"alpha": 0.0}, "alpha must be in (0, 1); got 0."),
        ({"explain": "some"}, "explain must be one of flagged, all, none; got 'some'."),
        ({"top": -1}, "top must be a whole number from 1, or 0 for all columns; got -1."),
    ],
)
def test_a_parameter_out_of_range_is_400_with_one_line(ask: Asked, params: dict[str, Any], line: str) -> None:
    assert _json(ask, BODIES["dataframe_split"](new_rows()), **params) == (400, _refused(line))
