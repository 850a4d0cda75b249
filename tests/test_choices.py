from typing import get_args

import pytest
from typer.testing import CliRunner

from vae_anomaly.choices import CalibrationTail, ColumnOrder, ExplainedRows, FScore, OnError, PValueKind, ReadOnError
from vae_anomaly.cli.app import app


@pytest.mark.parametrize(
    ("command", "option", "choices"),
    [
        ("fit", "--on-error", ReadOnError),
        ("evaluate", "--on-error", ReadOnError),
        ("score", "--on-error", OnError),
        ("score", "--explain", ExplainedRows),
        ("score", "--p-values", PValueKind),
        ("explain", "--order", ColumnOrder),
        ("calibrate", "--maximize", FScore),
        ("calibrate", "--method", CalibrationTail),
    ],
)
def test_options_offer_exactly_these_choices(command: str, option: str, choices: object) -> None:
    assert f"{option} <{'|'.join(get_args(choices))}>" in CliRunner().invoke(app, [command, "--help"]).stdout


def test_every_command_can_skip_and_only_writers_quarantine() -> None:
    assert set(get_args(OnError)) - set(get_args(ReadOnError)) == {"quarantine"}
