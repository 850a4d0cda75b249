"""JSON values become dataclasses with every type and every key checked."""

import json
from dataclasses import asdict, dataclass
from typing import Any

import pytest

from vae_anomaly.strict_json import parsed


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    x: float
    name: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    points: tuple[Point, ...]
    width: int = 1
    end: Point | None = None


LINE = Line(points=(Point(x=1.5), Point(x=2.0, name="b")), width=3, end=Point(x=0.0))


def test_the_inverse_of_asdict_also_after_json() -> None:
    assert parsed(Line, asdict(LINE)) == LINE
    assert parsed(Line, json.loads(json.dumps(asdict(LINE)))) == LINE


def test_an_absent_field_takes_its_default_and_a_whole_number_is_a_float() -> None:
    line = parsed(Line, {"points": [{"x": 2}]})
    assert line == Line(points=(Point(x=2.0),))
    assert isinstance(line.points[0].x, float)


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({}, "points: field required"),
        ({"points": [{"x": "1"}]}, "points.0.x: input should be a valid number"),
        ({"points": [], "width": 1.5}, "width: "),
        ({"points": [], "width": True}, "width: input should be a valid integer"),
        ({"points": {}}, "points: input should be a valid array"),
        ([], "Line: input should be an object"),
        ({"points": [], "colour": "red"}, "Line: unknown field 'colour'"),
        ({"points": [{"x": 1}, {"x": 1, "y": 2}]}, "points: unknown field 'y'"),
        ({"points": [], "end": {"x": 1, "y": 2}}, "end: unknown field 'y'"),
    ],
)
def test_the_first_problem_is_one_line_with_the_place_of_the_field(values: Any, text: str) -> None:
    with pytest.raises(ValueError, match=r"^[^\n]+$") as refused:
        parsed(Line, values)
    assert str(refused.value).startswith(text)
