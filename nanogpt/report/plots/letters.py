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
    """Texts at their places, as outlines that are made once in a process.

    `anchor` is what stands at a place: 0.5, the middle of a text; 1, its right end.
    """

    def __init__(self, texts: Sequence[str], places: Sequence[tuple[float, float]], size: float, at: Transform,
                 colors: Any = "black", bold: Sequence[bool] | None = None, anchor: float = 0.5, **looks: Any) -> None:
        self.size = size
        self.texts, self.bold = list(texts), list(bold or [False] * len(texts))
        super().__init__([outline(text, heavy, anchor) for text, heavy in zip(self.texts, self.bold, strict=True)],
                         sizes=[size ** 2], offsets=np.reshape(places, (-1, 2)), offset_transform=at,
                         facecolors=colors, linewidths=0, zorder=3, **looks)
        self.set_transform(IdentityTransform())
        self.set_in_layout(False)
        self.set_snap(False)     # else a "T" and an "l", of straight lines alone, are drawn heavier than others

    def boxes(self) -> np.ndarray[Any, np.dtype[np.float64]]:
        """Return left, bottom, right and top of each text, in pixels; their height is that of a line."""
        x, y = self.get_offset_transform().transform(self.get_offsets()).T
        across = [np.asarray(path.vertices)[:, 0] for path in self.get_paths()]
        left, right = ([end(points, initial=0) * self.pixels for points in across] for end in (np.min, np.max))
        return np.stack((x + left, y - self.pixels / 2, x + right, y + self.pixels / 2), axis=-1)

    @property
    def pixels(self) -> float:
        """The height of a line."""
        figure = self.get_figure()
        assert figure is not None
        return self.size * figure.dpi / 72

    def get_text(self) -> str:
        """Give the texts as lines."""
        return "\n".join(self.texts)


def write_letters(axes: Axes, texts: Sequence[str], places: Sequence[tuple[float, float]], size: float,
                  at: Transform | None = None, **looks: Any) -> Letters:
    """Write texts of `size` points at places in the units of the data, or of `at`."""
    letters = Letters(texts, places, size, at or axes.transData, clip_on=False, **looks)
    axes.add_collection(letters, autolim=False)
    return letters


@functools.cache
def outline(text: str, bold: bool, anchor: float = 0.5) -> Path:
    """Return the outline of a text of size 1, its middle at 0, or in x its `anchor`.

    A character that the font lacks becomes a box.
    """
    maker, font = TextToPath(), FontProperties(weight="bold" if bold else "normal")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        vertices, codes = maker.get_text_path(font, text)
    points = np.reshape(vertices, (-1, 2)) / maker.FONT_SCALE
    return Path(points - (anchor * points[:, 0].max(initial=0), MIDDLE), codes or None)
