"""A figure as SVG for a page: its ink follows the page's, its colours have names that a dark page may change."""

from __future__ import annotations

import io
import re
from typing import NamedTuple

import matplotlib as mpl
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from nanogpt.report.style import INK, NAMED_COLORS

POINT = 4 / 3           # CSS pixels
LEAST_SCALE = 0.9       # of its size that a figure is drawn at, so that its letters of 8 points have 9 pixels
NAMED = {"#000000": "currentColor", INK: "currentColor",
         **{color.lower(): f"var(--{name}, {color})" for color, (name, _) in NAMED_COLORS.items()}}


class Drawing(NamedTuple):
    """A figure as pixels, for whoever takes it elsewhere, and as an element of a page."""

    png: bytes
    svg: str


def svg(figure: Figure, name: str) -> str:
    """Return a figure that was laid out as an element to put into a page; `name` tells its ids from other figures'."""
    for patch in (figure.patch, *(axes.patch for axes in figure.axes)):
        patch.set_visible(False)
    for image in (image for axes in figure.axes for image in axes.images):
        image.set_interpolation("none")     # its own pixels, which the browser enlarges
    stream = io.StringIO()
    with mpl.rc_context({"svg.hashsalt": name}):
        FigureCanvasSVG(figure).print_svg(stream, metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    text = stream.getvalue()
    body = text[text.index(">", text.index("<svg")) + 1:]
    body = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", body, flags=re.DOTALL)
    body = re.sub(r"\s*\n\s*", "\n", body)
    body = re.sub(r' d="[^"]*"', lambda found: re.sub(r"(\.\d)\d+|\.0\b", r"\1", found[0]), body)
    body = re.sub(r"(?:scale|matrix)\([^)]*\)|(\d\.\d\d)\d+", lambda found: found[1] or found[0], body)
    body = re.sub(r"#[0-9a-f]{6}\b", lambda found: NAMED.get(found[0], found[0]), body)
    width, height = (float(72 * inches) for inches in figure.get_size_inches())
    pixels = POINT * width
    style = f"width:{pixels:.0f}px;min-width:{LEAST_SCALE * pixels:.0f}px"
    return (f'<svg viewBox="0 0 {width:.2f} {height:.2f}" style="{style}" fill="currentColor" aria-hidden="true">'
            + own_ids(body, name).strip())


def own_ids(body: str, name: str) -> str:
    """Put `name` before the ids that something refers to, and leave out the others: a page holds many figures."""
    body = re.sub(r'(xlink:href="#|url\(#)', rf"\g<1>{name}-", body)
    referred = set(re.findall(r'(?:xlink:href="|url\()#([^")]+)', body))
    return re.sub(r' id="([^"]+)"',
                  lambda found: f' id="{name}-{found[1]}"' if f"{name}-{found[1]}" in referred else "", body)
