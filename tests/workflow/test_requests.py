import subprocess
import sys
from dataclasses import MISSING, FrozenInstanceError, fields, replace
from typing import Any

import pytest

from vae_anomaly.config import DataConfig, Reading, reading_for
from vae_anomaly.workflow import requests
from vae_anomaly.workflow.requests import ReadRequest, ScoreRequest

REQUESTS: list[Any] = [value for name, value in vars(requests).items() if name.endswith("Request")]


def test_requests_load_nothing_heavy() -> None:
    code = "import sys, vae_anomaly.workflow.requests; print(sorted({'torch', 'numpy', 'pyarrow', 'mlflow'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


@pytest.mark.parametrize("request_type", REQUESTS, ids=lambda kind: kind.__name__)
def test_a_default_is_an_attribute_of_the_class(request_type: Any) -> None:
    defaults = {field.name: field.default for field in fields(request_type) if field.default is not MISSING}
    assert defaults == {name: getattr(request_type, name) for name in defaults}


def test_a_request_cannot_be_changed() -> None:
    request: Any = ScoreRequest(data=("a.csv",), model="m")
    with pytest.raises(FrozenInstanceError):
        request.alpha = 0.5


def test_tables_are_read_as_the_fit_read_them_unless_the_request_says_otherwise() -> None:
    fitted = DataConfig(missing_values=("?",), no_header=True, skip_rows=2, at="7", on_error="skip", exclude=("x",))
    as_fitted = reading_for(ReadRequest(), fitted)
    assert as_fitted == Reading(missing_values=("?",), no_header=True, skip_rows=2)  # another table has its own versions
    assert reading_for(ReadRequest(header_row=3), fitted) == replace(as_fitted, header_row=3, no_header=False)
    assert reading_for(ReadRequest(no_header=True), DataConfig(header_row=3)) == Reading(no_header=True)
    assert reading_for(ReadRequest(missing_values=(), on_error="quarantine", at="9"), fitted) == replace(
        as_fitted, missing_values=(), on_error="quarantine", at="9"
    )
