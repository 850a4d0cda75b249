"""A figure inside a page: well-formed, without ids of another figure, in the page's colours, and only its own text."""

import re
import xml.etree.ElementTree as ET

import pytest
from matplotlib.figure import Figure

from vae_anomaly.report import figures
from vae_anomaly.report.svg import THEME, axes_position, svg

SVG = "{http://www.w3.org/2000/svg}"


def figure(*, title: str = "", colour: str = figures.BLUE) -> Figure:
    drawn = Figure(figsize=(4.0, 2.0))
    axes = drawn.add_axes((0.25, 0.2, 0.5, 0.6))
    axes.plot([0.0, 10.0], [0.0, 1.0], color=colour, marker="o")
    axes.set_xlim(0.0, 10.0)
    axes.set_title(title, parse_math=False)
    return drawn


def test_it_is_one_labelled_image_that_scales() -> None:
    text = svg(figure(), "curve", 'a "curve" & <more>')
    root = ET.fromstring(text)  # noqa: S314  # our own output
    assert root.tag == f"{SVG}svg"
    assert (root.get("role"), root.get("aria-label")) == ("img", 'a "curve" & <more>')
    assert root.get("viewBox") == "0 0 288 144"
    assert (root.get("width"), root.get("height")) == (None, None)
    assert root.find(f"{SVG}metadata") is None


def test_all_ids_and_references_have_the_prefix() -> None:
    text = svg(figure(), "curve", "")
    ids = re.findall(r'\bid="([^"]*)"', text)
    references = re.findall(r'url\(#([^)]*)\)|href="#([^"]*)"', text)
    assert ids != []
    assert references != []
    assert [name for name in ids if not name.startswith("curve-")] == []
    assert {a or b for a, b in references} <= set(ids)


def test_colours_become_variables_of_the_page() -> None:
    text = svg(figure(), "curve", "")
    assert "var(--blue)" in text
    assert "var(--ink)" in text
    assert [colour for colour in THEME if colour in text] == []
    assert {colour.lower() for colour in (figures.BLUE, figures.ORANGE, figures.GREEN, figures.SKY, figures.GREY)} <= set(THEME)


@pytest.mark.parametrize("title", ["#000000", 'id="x"', "<b>&", "url(#a)", "温度 $x^2$"])
def test_text_of_a_user_is_neither_changed_nor_markup(title: str) -> None:
    root = ET.fromstring(svg(figure(title=title), "curve", ""))  # noqa: S314
    assert title in ["".join(element.itertext()).strip() for element in root.iter(f"{SVG}text")]


def test_the_same_figure_gives_the_same_text() -> None:
    assert svg(figure(), "curve", "") == svg(figure(), "curve", "")
    assert svg(figure(), "curve", "") != svg(figure(), "other", "")


def test_positions_are_shares_of_the_figure() -> None:
    """The axes above span a quarter to three quarters of the width, and a fifth to four fifths of the height."""
    drawn = figure()
    position = axes_position(drawn.axes[0], [0.0, 5.0, 10.0])
    assert position.x == pytest.approx((0.25, 0.5, 0.75))
    assert (position.top, position.bottom) == pytest.approx((0.2, 0.2))
