"""The state of series between commands: a file with where they stood before and after a job.

The same job again starts from where it started before, so that it is the same job; the next one starts where that one ended.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vae_anomaly.detector.series import state_from
from vae_anomaly.errors import ConfigError, DataError
from vae_anomaly.events.episodes import EventLog, log_from
from vae_anomaly.storage.atomic import write_text, writing


@dataclass(frozen=True, slots=True, kw_only=True)
class StateFile:
    """A file with the state of the series: that ``before`` the last ``job`` and that ``after`` it; None: at their start.

    ``model``: digest of the model that they are series of.
    """

    path: Path
    model: str
    job: str
    before: dict[str, Any] | None
    after: dict[str, Any] | None

    def state_for(self, job: str) -> dict[str, Any] | None:
        """Return the state that a job starts from: the last job again starts from where it did."""
        return self.before if job == self.job else self.after

    def write(self, job: str, after: Mapping[str, Any]) -> None:
        """Replace the file by the state after a job, whole or not at all."""
        content = {"model": self.model, "job": job, "before": self.state_for(job), "after": after}
        with writing(self.path):
            write_text(self.path, json.dumps(content))


def read_state(path: Path, model: str) -> StateFile:
    """Read a state file for the model with this digest; one that does not exist stands for series at their start.

    Raises DataError for another file and ConfigError for the state of another model.
    """
    if not path.exists():
        return StateFile(path=path, model=model, job="", before=None, after=None)
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        for state in (found["before"], found["after"]):
            if state is not None:
                state_from(state["series"])
                log_from(state["events"])
        state_of = str(found["model"])
        stored = StateFile(path=path, model=model, job=str(found["job"]), before=found["before"], after=found["after"])
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise DataError(f"{path} is no state of a series ({error}). Name the file that --state wrote before, or a new one.") from None
    if state_of != model:
        raise ConfigError(
            f"{path} holds the state of another model's series (digest {state_of[:12]}; this one has {model[:12]}), whose scores do not go "
            "on in this one. Name a new file with --state."
        )
    return stored


def after_of(counted: Mapping[str, Any]) -> dict[str, Any]:
    """Return the state that a job leaves, from the counts in its manifest.

    Events that are over belong to its output alone, as do the numbers of its rows.
    """
    events = counted.get("events", EventLog().plain())
    begun = {name: event | {"first": None} for name, event in events["begun"].items()}
    return {"series": counted["series"], "events": {**events, "over": [], "begun": begun}}


def digest_of(values: object) -> str:
    """Return the SHA-256 of JSON values."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
