"""A confusion matrix as a picture."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segdeploy.base.errors import InputError, MissingExtraError
from segdeploy.base.files import new_file

_SUFFIXES = (".svg", ".png")
# Beyond so many classes a cell that holds a number would make the picture larger than a page.
_MOST_WITH_NUMBERS = 40
_TITLE_IN, _RIGHT_IN, _BOTTOM_IN = 0.55, 1.0, 0.35
_LONGEST_NAME = 24


def check_confusion_path(path: Path) -> None:
    """Whether a picture can be drawn there, asked before the evaluation rather than after it.

    Raises:
        InputError: a suffix other than .svg and .png.
        MissingExtraError: matplotlib is not installed.
    """
    if path.suffix.lower() not in _SUFFIXES:
        raise InputError(expected="a picture whose name ends in .svg or .png", got=f"'{path}'", fix="rename it")
    if importlib.util.find_spec("matplotlib") is None:
        raise MissingExtraError(package="matplotlib", extra="bench", purpose="drawing a confusion matrix")


def draw_confusion(path: Path, counts: Sequence[Sequence[int]], names: Sequence[str], *, title: str) -> None:
    """Draw each label's pixels by what they were predicted as, in per cent of the label's pixels.

    Small shares keep a visible shade: the colour grows with the square root of the share.

    Args:
        path: ends in .svg or .png.
        counts: pixels [label][prediction].
        names: of the classes.
        title: above it.

    Raises:
        InputError: the suffix is neither, or the folder cannot be written.
        MissingExtraError: matplotlib is not installed.
    """
    check_confusion_path(path)
    import matplotlib as mpl
    from matplotlib.colors import PowerNorm
    from matplotlib.figure import Figure

    matrix = np.asarray(counts, np.float64)
    totals = matrix.sum(1, keepdims=True)
    shares = np.full_like(matrix, np.nan)
    np.divide(100 * matrix, totals, out=shares, where=totals > 0)
    count = len(names)
    cell_in, size_pt = (0.6, 9.0) if count <= 8 else (0.36, 7.5) if count <= _MOST_WITH_NUMBERS else (0.115, 6.0)
    labels = [_shortened(name) for name in names]
    names_in = 0.35 + max(map(len, labels)) * size_pt * 0.6 / 72
    side_in = cell_in * count
    # A short matrix must still have room for its title.
    width = max(names_in + side_in + _RIGHT_IN, 0.085 * len(title) + 0.4)
    height = _TITLE_IN + side_in + names_in + _BOTTOM_IN
    figure = Figure(figsize=(width, height))
    axes = figure.add_axes((names_in / width, 1 - (_TITLE_IN + side_in) / height, side_in / width, side_in / height))
    colours = mpl.colormaps["Blues"].with_extremes(bad="#e8e8e8")
    image = axes.imshow(shares, cmap=colours, norm=PowerNorm(0.5, 0, 100), interpolation="nearest", aspect="auto")
    _label(axes, labels, size_pt)
    if count <= _MOST_WITH_NUMBERS:
        _write_numbers(axes, shares, size_pt)
    bar_left = names_in + side_in + 0.2
    bar_in = max(side_in, 1.5)
    bar = figure.add_axes((bar_left / width, 1 - (_TITLE_IN + bar_in) / height, 0.14 / width, bar_in / height))
    figure.colorbar(image, cax=bar, ticks=[0, 1, 5, 10, 25, 50, 75, 100], format="%g %%")
    bar.tick_params(labelsize=7.5, length=2)
    bar.minorticks_off()
    figure.text(0.15 / width, 1 - 0.2 / height, _plain(title), fontsize=10, va="top")
    # Text as text: it can be searched and copied, and the file stays small.
    with new_file(path) as temporary, mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "confusion"}):
        metadata = {"Date": None} if path.suffix.lower() == ".svg" else None
        figure.savefig(temporary, format=path.suffix[1:].lower(), dpi=150, metadata=metadata)


def _label(axes: Any, labels: list[str], size_pt: float) -> None:
    axes.set_xticks(range(len(labels)), labels, rotation=90, fontsize=size_pt)
    axes.set_yticks(range(len(labels)), labels, fontsize=size_pt)
    axes.set_xlabel("predicted as", fontsize=9)
    axes.set_ylabel("labelled", fontsize=9)
    axes.tick_params(length=0)
    axes.set_xticks(np.arange(0.5, len(labels) - 1), minor=True)
    axes.set_yticks(np.arange(0.5, len(labels) - 1), minor=True)
    axes.grid(which="minor", color="white", linewidth=0.6 if len(labels) <= _MOST_WITH_NUMBERS else 0.2)
    axes.tick_params(which="minor", length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)


def _write_numbers(axes: Any, shares: NDArray[np.float64], size_pt: float) -> None:
    """Per cent without decimals; what rounds to none is left out, and a label without pixels gets a dash."""
    for row, values in enumerate(shares):
        for column, value in enumerate(values):
            if value >= 0.5:
                text = f"{value:.0f}"
            elif np.isnan(value) and row == column:
                text = "-"
            else:
                continue
            ink = "white" if value > 35 else "#1d2327"
            axes.text(column, row, text, ha="center", va="center", fontsize=size_pt, color=ink)


def _shortened(name: str) -> str:
    return _plain(name if len(name) <= _LONGEST_NAME else name[: _LONGEST_NAME - 1] + "…")


def _plain(text: str) -> str:
    return text.replace("$", r"\$")  # matplotlib would read it as mathematics
