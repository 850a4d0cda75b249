"""Commands against the requests of their verbs, and what ``run_verb`` passes on and prints."""

import inspect
from collections.abc import Callable
from dataclasses import MISSING, dataclass, fields
from typing import Any

import pytest

from vae_anomaly.cli import commands, terminal
from vae_anomaly.messages import ignore_progress
from vae_anomaly.workflow import requests

PRINTING = {"as_json", "quiet", "verbose"}
DECLARED: dict[Callable[..., None], tuple[Any, set[str], set[str]]] = {
    # command: its request, fields of the request that are no options, options that are no fields
    commands.score: (
        requests.ScoreRequest,
        {"format", "escape"},
        {"part_format", "no_escape", "watch", "watch_interval"},
    ),
    commands.recalibrate: (requests.CalibrateRequest, set(), set()),
    commands.explain: (requests.ExplainRequest, set(), set()),
    commands.evaluate: (requests.EvaluateRequest, set(), set()),
    commands.report: (requests.ReportRequest, set(), set()),
    commands.upload: (requests.UploadRequest, {"register"}, {"no_register"}),
}


@pytest.mark.parametrize("command", DECLARED, ids=lambda command: command.__name__)
def test_options_have_the_names_and_defaults_of_the_request(command: Callable[..., None]) -> None:
    request_type, not_options, not_fields = DECLARED[command]
    parameters = inspect.signature(command).parameters
    defaults = {field.name: field.default for field in fields(request_type) if field.name not in not_options}
    assert set(parameters) - PRINTING - not_fields == set(defaults)
    for name, default in defaults.items():
        declared = parameters[name].default
        assert default is MISSING or declared == (list(default) if isinstance(declared, list) else default), name


@dataclass(frozen=True, kw_only=True)
class Request:
    data: tuple[str, ...]
    alpha: float | None = None


@dataclass(frozen=True)
class Verb:
    """Stands for a verb of workflow and for its summary."""

    calls: list[dict[str, Any]]

    def run(self, **arguments: Any) -> dict[str, int]:
        self.calls.append(arguments)
        return {"rows": 3}

    def summary(self, result: dict[str, int]) -> str:
        return f"{result['rows']} rows"


@pytest.fixture
def verb(monkeypatch: pytest.MonkeyPatch) -> Verb:
    verb = Verb([])
    imported = {"workflow.test.run": verb.run, "cli.test.summary": verb.summary}
    monkeypatch.setattr(commands, "_imported", imported.__getitem__)
    monkeypatch.setattr(terminal, "set_logging", lambda *_, **__: None)
    return verb


def options(**changes: Any) -> dict[str, Any]:
    return {"data": ["a.csv"], "alpha": 0.5, "other": 1, "as_json": False, "quiet": True, "verbose": 0} | changes


@pytest.mark.parametrize(
    ("changes", "summary_if_quiet", "printed"),
    [
        ({"quiet": False}, False, "3 rows\n"),
        ({}, False, ""),
        ({}, True, "3 rows\n"),
        ({"as_json": True}, False, '{"rows": 3}\n'),
    ],
    ids=["summary", "quiet", "product", "json"],
)
def test_a_result_is_printed_once(
    verb: Verb,
    changes: dict[str, Any],
    summary_if_quiet: bool,  # noqa: FBT001  # parametrized
    printed: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    result = commands.run_verb("test.run", "test.summary", options(**changes), Request, summary_if_quiet=summary_if_quiet)
    assert (result, capsys.readouterr().out) == ({"rows": 3}, printed)
    assert verb.calls[0]["request"] == Request(data=("a.csv",), alpha=0.5)


def test_progress_goes_only_to_a_verb_that_reports_it(verb: Verb) -> None:
    commands.run_verb("test.run", "test.summary", options(), name="pump", reports_progress=False)
    commands.run_verb("test.run", "test.summary", options())
    assert verb.calls == [{"name": "pump"}, {"tell": ignore_progress}]


def test_preallocation_is_limited_before_the_verb_is_imported(verb: Verb, monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[str] = []
    monkeypatch.setattr(terminal, "limit_preallocation", lambda: events.append("limited"))

    def imported(path: str) -> Callable[..., dict[str, int]]:
        events.append(path)
        return verb.run

    monkeypatch.setattr(commands, "_imported", imported)
    commands.run_verb("test.run", "test.summary", options(memory_limit=10**9))
    commands.run_verb("test.run", "test.summary", options(memory_limit=None))
    assert events == ["limited", "workflow.test.run", "workflow.test.run"]
