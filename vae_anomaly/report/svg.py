"""A matplotlib figure as SVG that stands inside an HTML page: small, self-contained, in the colours of the page, readable aloud.

Knows nothing of what is drawn. Ids get a prefix of their own, because all pictures of a page share one name space.
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

# Colours of ``edges.figures`` → variables of the page, which has two sets of them, for light and dark.
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
    """Return the figure as an ``<svg>`` element; ``name`` makes its ids unique, ``description`` is what it shows, in words."""
    buffer = io.BytesIO()
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}), warnings.catch_warnings():
        # A name in a script that the font lacks is measured as boxes here and drawn by the browser's own font.
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
    """Put the prefix before the ids of a tag and the page's variables in place of its colours; what is written between tags stays."""
    tag = re.sub(r'(\bid="|url\(#|href="#)', rf"\1{name}-", tag)
    for colour, variable in THEME.items():
        tag = tag.replace(colour, variable)
    return tag


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """Where things stand in a drawn figure, as shares of its width from the left and of its height from the top."""

    x: tuple[float, ...]
    top: float
    bottom: float


def places_of(axes: Axes, values: Sequence[float]) -> Places:
    """Return where values of the x-axis stand, and the top and bottom of the axes."""
    figure = axes.get_figure(root=True)
    assert figure is not None
    figure.draw_without_rendering()
    box, (width, height) = axes.get_window_extent(), (figure.bbox.width, figure.bbox.height)
    x = tuple(float(axes.transData.transform((value, 0.0))[0]) / width for value in values)
    return Places(x=x, top=1.0 - float(box.y1) / height, bottom=float(box.y0) / height)
