"""The state of series between commands: the last job again starts from where it did."""

import json
from pathlib import Path

import pytest

from vae_anomaly.errors import ConfigError
from vae_anomaly.jobs.state_file import StateFile, after_of, digest_of, read_state


def test_the_last_job_again_starts_from_the_state_before_it(tmp_path: Path) -> None:
    path = tmp_path / "s.json"
    state = StateFile(path=path, model="m", job="one", before={"n": 1}, after={"n": 2})
    assert (state.state_for("one"), state.state_for("two")) == ({"n": 1}, {"n": 2})
    state.write("two", {"n": 3})
    assert json.loads(path.read_text()) == {"model": "m", "job": "two", "before": {"n": 2}, "after": {"n": 3}}
    state.write("one", {"n": 4})
    assert json.loads(path.read_text()) == {"model": "m", "job": "one", "before": {"n": 1}, "after": {"n": 4}}


def test_events_that_are_over_and_row_numbers_are_not_carried() -> None:
    begun = {"=a": {"start": 1.0, "first": 7, "last": 9}}
    found = after_of({"series": {"names": []}, "events": {"over": [1], "begun": begun, "last": {"=a": 3.0}}})
    assert found["events"] == {"over": [], "begun": {"=a": {"start": 1.0, "first": None, "last": 9}}, "last": {"=a": 3.0}}
    assert after_of({"series": {}})["events"] == {"over": [], "begun": {}, "last": {}}


def test_a_digest_does_not_depend_on_the_order_of_keys(tmp_path: Path) -> None:
    assert digest_of({"a": 1, "b": [2]}) == digest_of({"b": [2], "a": 1}) != digest_of({"a": 1, "b": [3]})
    assert read_state(tmp_path / "none", "m").after is None


def test_the_state_of_another_model_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "s.json"
    path.write_text(json.dumps({"model": "other", "job": "one", "before": None, "after": None}))
    with pytest.raises(ConfigError, match=r"s\.json holds the state of another model's series \(digest other; this one has mine\)"):
        read_state(path, "mine")
    assert read_state(path, "other").job == "one"
