"""Convert a matplotlib figure to inline SVG: small, self-contained, in the page's colours, with a label for screen readers.

Ids get a prefix per figure, because all figures of a page share one namespace.
"""

import io
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

# Colours of ``report.figures`` → CSS variables of the page, which have one value for light and one for dark mode.
THEME = {
    "#0072b2": "var(--blue)",
    "#d55e00": "var(--orange)",
    "#009e73": "var(--green)",
    "#56b4e9": "var(--sky)",
    "#666666": "var(--muted)",
    "#dddddd": "var(--line)",
    "#000000": "var(--ink)",
    "#ffffff": "var(--paper)",
}


def svg(figure: Figure, name: str, description: str) -> str:
    """Return the figure as an ``<svg>`` element; ``name`` is the prefix of its ids, ``description`` its text for screen readers."""
    buffer = io.BytesIO()
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}), warnings.catch_warnings():
        # Glyphs that matplotlib's font lacks are drawn by a font of the browser; here only their width is estimated.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    text = buffer.getvalue().decode()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", text, flags=re.DOTALL)
    text = re.sub(r"<[a-z][^>]*>", lambda tag: _themed(tag[0], name), text)
    view = re.search(r'viewBox="[^"]*"', text)
    assert view is not None
    start = f'<svg {view[0]} role="img" aria-label="{escape(description, quote=True)}" xmlns="http://www.w3.org/2000/svg"'
    return re.sub(r"<svg[^>]*>", lambda _: f'{start} xmlns:xlink="http://www.w3.org/1999/xlink">', text, count=1).strip()


def _themed(tag: str, name: str) -> str:
    """Prefix the ids of a tag and replace its colours by variables. Text between tags is not touched."""
    tag = re.sub(r'(\bid="|url\(#|href="#)', rf"\1{name}-", tag)
    for colour, variable in THEME.items():
        tag = tag.replace(colour, variable)
    return tag


@dataclass(frozen=True, slots=True, kw_only=True)
class AxesPosition:
    """Position of the axes in a figure: x values as shares of the width from the left, ``top`` and ``bottom`` of the height."""

    x: tuple[float, ...]
    top: float
    bottom: float


def axes_position(axes: Axes, values: Sequence[float]) -> AxesPosition:
    """Return the positions of ``values`` of the x-axis, and of the top and bottom edge of the axes."""
    figure = axes.get_figure(root=True)
    assert figure is not None
    figure.draw_without_rendering()
    box, (width, height) = axes.get_window_extent(), (figure.bbox.width, figure.bbox.height)
    x = tuple(float(axes.transData.transform((value, 0.0))[0]) / width for value in values)
    return AxesPosition(x=x, top=1.0 - float(box.y1) / height, bottom=float(box.y0) / height)
