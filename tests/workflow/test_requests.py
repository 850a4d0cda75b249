import subprocess
import sys
from dataclasses import MISSING, FrozenInstanceError, fields
from typing import Any

import pytest

from vae_anomaly.workflow import requests
from vae_anomaly.workflow.requests import ScoreRequest

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
