"""Many short texts as one artist: a heat map writes in each of its cells, and each text of matplotlib costs a
millisecond."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection
from matplotlib.font_manager import FontProperties
from matplotlib.path import Path
from matplotlib.textpath import TextToPath
from matplotlib.transforms import IdentityTransform, Transform

MIDDLE = 0.35       # of a line, above its base line, as a share of the font's size


class Letters(PathCollection):
    """Texts centred at their places, as outlines that are made once in a process."""

    def __init__(self, texts: Sequence[str], places: Sequence[tuple[float, float]], size: float, at: Transform,
                 colors: Any = "black", bold: Sequence[bool] | None = None, **looks: Any) -> None:
        self.texts, self.bold = list(texts), list(bold or [False] * len(texts))
        super().__init__([outline(text, heavy) for text, heavy in zip(self.texts, self.bold, strict=True)],
                         sizes=[size ** 2], offsets=np.reshape(places, (-1, 2)), offset_transform=at,
                         facecolors=colors, linewidths=0, zorder=3, **looks)
        self.set_transform(IdentityTransform())
        self.set_in_layout(False)
        self.set_snap(False)     # else a "T" and an "l", of straight lines alone, are drawn heavier than others

    def get_text(self) -> str:
        """Give the texts as lines."""
        return "\n".join(self.texts)


def write_letters(axes: Axes, texts: Sequence[str], places: Sequence[tuple[float, float]], size: float,
                  at: Transform | None = None, **looks: Any) -> None:
    """Write texts of `size` points at places in the units of the data, or of `at`."""
    axes.add_collection(Letters(texts, places, size, at or axes.transData, clip_on=False, **looks), autolim=False)


@functools.cache
def outline(text: str, bold: bool) -> Path:
    """Return the outline of a text of size 1, its middle at 0. A character that the font lacks becomes a box."""
    maker, font = TextToPath(), FontProperties(weight="bold" if bold else "normal")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        vertices, codes = maker.get_text_path(font, text)
    path = Path(np.reshape(vertices, (-1, 2)) / maker.FONT_SCALE, codes or None)
    width = path.get_extents().x1 if codes else 0.0
    return Path(np.asarray(path.vertices) - (width / 2, MIDDLE), codes or None)
