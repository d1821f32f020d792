"""Curves of training runs as a picture: one panel a scalar, one colour a run."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segdeploy.base.errors import InputError, MissingExtraError
from segdeploy.base.files import new_file
from segdeploy.training.curves import Curve, Run, best

FORMATS = (".svg", ".png", ".pdf")
# Okabe and Ito's colours, which are told apart with any colour vision; the yellow is too pale for a line.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_INK, _QUIET, _GRID = "#1f2328", "#6b7178", "#e3e6ea"
_PANEL_IN = (4.3, 3.1)
_COLUMNS = 3
_TITLES = {"loss": "training loss", "lr": "learning rate", "mIoU": "validation mIoU (%)"}
# Training scalars of single batches jump: they are smoothed.
_NOISY = ("loss", "acc")
# A share of all points: enough to see the trend, little enough to keep a step in it.
_SMOOTHED_SHARE = 0.06
_WIDEST_WINDOW = 101
_DASHES = ("-", "--", ":")
# No date in the file: the same logs give the same picture.
NO_DATE: dict[str, dict[str, None]] = {".svg": {"Date": None}, ".png": {}, ".pdf": {"CreationDate": None}}


def draw_curves(runs: Sequence[Run], keys: Sequence[str], out: Path) -> None:
    """Draw the runs over each other, over epochs where all count them, else over iterations.

    Args:
        runs: at least one.
        keys: the scalars; each was logged by at least one run.
        out: an .svg, .png or .pdf file.

    Raises:
        InputError: another kind of file, or a folder that cannot be written.
        MissingExtraError: matplotlib is not installed.
    """
    if out.suffix not in FORMATS:
        raise InputError(expected=f"a file ending in {', '.join(FORMATS)}", got=f"'{out}'", fix="correct --out")
    try:
        import matplotlib as mpl
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise MissingExtraError(package="matplotlib", extra="bench", purpose="drawing curves") from error
    rows, columns = -(-len(keys) // _COLUMNS), min(len(keys), _COLUMNS)
    legend_in = 0.3 + 0.22 * len(runs)
    height = rows * _PANEL_IN[1] + legend_in
    style = {"font.family": "sans-serif", "font.size": 9.5, "svg.fonttype": "none", "svg.hashsalt": "segdeploy"}
    with mpl.rc_context(style):
        figure = Figure(figsize=(columns * _PANEL_IN[0], height), layout="constrained")
        figure.get_layout_engine().set(rect=(0.005, 0, 0.99, 1 - legend_in / height), wspace=0.05, hspace=0.06)
        panels = figure.subplots(rows, columns, squeeze=False).ravel()
        for panel, key in zip(panels, keys, strict=False):
            _draw_panel(panel, runs, key)
        for panel in panels[len(keys) :]:
            panel.set_visible(False)
        _draw_legend(figure, runs, marked="mIoU" in keys)
        # The layout's solver differs in the last bits from run to run.
        figure.draw_without_rendering()
        figure.set_layout_engine("none")
        for panel in panels:
            panel.set_position([round(edge, 4) for edge in panel.get_position().bounds])
        with new_file(out) as temporary:
            figure.savefig(temporary, format=out.suffix[1:], dpi=160, metadata=NO_DATE[out.suffix])


def smooth(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """The median of a window around each value, which a single spike does not move; values that are not finite do not count.

    Towards the ends the window becomes narrower, down to half, so that a slope there is bent little.

    Args:
        values: [N].

    Returns:
        [N]; NaN where the window has no finite value.
    """
    half = max(1, round(min(len(values) * _SMOOTHED_SHARE, _WIDEST_WINDOW) / 2))
    padded = np.pad(np.where(np.isfinite(values), values, np.nan), half, constant_values=np.nan)
    windows = np.lib.stride_tricks.sliding_window_view(padded, 2 * half + 1).copy()
    position = np.arange(len(values))
    reach = np.maximum(np.minimum(position, position[::-1]), half // 2)
    windows[np.abs(np.arange(-half, half + 1)) > reach[:, None]] = np.nan
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a window without a finite value is NaN, as promised
        return np.asarray(np.nanmedian(windows, axis=1), np.float64)


def by_epoch(runs: Sequence[Run]) -> bool:
    """Whether the x axis counts epochs: where all runs do."""
    return all(run.epoch_length is not None for run in runs)


def describe_best(run: Run, *, epochs: bool) -> str:
    """A run's best mIoU and where, in words; empty where it was not validated."""
    curve = run.curves.get("mIoU")
    index = None if curve is None else best(curve)
    if curve is None or index is None:
        return ""
    x = _positions(run, curve, epochs=epochs)[index]
    return f"best mIoU {curve.values[index]:.2f} at {'epoch' if epochs else 'iteration'} {x:,.0f}"


def _positions(run: Run, curve: Curve, *, epochs: bool) -> NDArray[np.float64]:
    return curve.iterations / run.epoch_length if epochs and run.epoch_length else curve.iterations


def _line(index: int) -> dict[str, str]:
    """How the curves of a run look: more runs than colours go on with dashes."""
    return {"color": COLOURS[index % len(COLOURS)], "linestyle": _DASHES[index // len(COLOURS) % len(_DASHES)]}


def _draw_panel(panel: Any, runs: Sequence[Run], key: str) -> None:
    epochs = by_epoch(runs)
    title = _TITLES.get(key, key)
    tops = []
    for index, run in enumerate(runs):
        curve = run.curves.get(key)
        if curve is None:
            continue
        x, line = _positions(run, curve, epochs=epochs), _line(index)
        if not curve.validation and any(part in key for part in _NOISY):
            trend = smooth(curve.values)
            panel.plot(x, curve.values, color=line["color"], linewidth=0.8, alpha=0.3)
            panel.plot(x, trend, **line, linewidth=1.8)
            title = f"{_TITLES.get(key, key)}, smoothed (pale: as logged)"
            finite = curve.values[np.isfinite(curve.values)]
            if len(finite):
                tops.append(max(float(np.nanmax(trend)), float(np.quantile(finite, 0.98))))
        else:
            # Between its points a validation says nothing: they are drawn.
            panel.plot(x, curve.values, **line, linewidth=1.8, marker="o" if curve.validation else None, markersize=3)
        if key == "mIoU" and (top := best(curve)) is not None:
            star = {"marker": "*", "markersize": 13, "markeredgecolor": "white", "zorder": 5}
            panel.plot(x[top], curve.values[top], color=line["color"], **star)
    if tops and "loss" in key:
        panel.set_ylim(0, 1.06 * max(tops))  # a spike leaves the panel rather than flattening all else
    elif key == "lr":
        panel.set_ylim(bottom=0)
    ends = [_positions(run, curve, epochs=epochs)[-1] for run in runs for curve in run.curves.values()]
    panel.set_xlim(0, 1.03 * max(ends))
    panel.set_title(title, loc="left", fontsize=10.5, color=_INK)
    panel.set_xlabel("epoch" if epochs else "iteration", color=_QUIET)
    _style(panel)


def _style(panel: Any) -> None:
    from matplotlib.ticker import EngFormatter, MaxNLocator

    panel.xaxis.set_major_locator(MaxNLocator(6, integer=True, steps=[1, 2, 5, 10]))
    panel.xaxis.set_major_formatter(EngFormatter(sep=""))
    panel.grid(color=_GRID, linewidth=0.8)
    panel.set_axisbelow(True)
    panel.tick_params(length=0, colors=_QUIET)
    for name, spine in panel.spines.items():
        spine.set_visible(name == "bottom")
        spine.set_color(_GRID)


def _draw_legend(figure: Any, runs: Sequence[Run], *, marked: bool) -> None:
    from matplotlib.lines import Line2D

    handles = [Line2D([], [], **_line(index), linewidth=2.5) for index in range(len(runs))]
    labels = []
    for run in runs:
        said = describe_best(run, epochs=by_epoch(runs)) if marked else ""
        # matplotlib would read '$' as mathematics.
        labels.append(run.name.replace("$", r"\$") + (f"    \N{BLACK STAR} {said}" if said else ""))
    figure.legend(handles, labels, loc="upper left", frameon=False, labelcolor=_INK, fontsize=10, borderaxespad=0.6)
