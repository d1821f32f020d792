"""Class frequencies as a picture."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from segdeploy.base.errors import InputError, MissingExtraError
from segdeploy.base.files import new_file
from segdeploy.training.check import CheckReport
from segdeploy.training.curve_plots import COLOURS, FORMATS, NO_DATE

_MARKS = "osD^vP*"
_ROW_IN = 0.26


def check_plot_path(path: Path) -> None:
    """Whether a picture can be drawn there, asked before the data set is read rather than after it.

    Raises:
        InputError: another kind of file.
        MissingExtraError: matplotlib is not installed.
    """
    if path.suffix not in FORMATS:
        raise InputError(expected=f"a file ending in {', '.join(FORMATS)}", got=f"'{path}'", fix="correct --plot")
    if importlib.util.find_spec("matplotlib") is None:
        raise MissingExtraError(package="matplotlib", extra="bench", purpose="drawing class frequencies")


def plot_frequencies(report: CheckReport, path: Path) -> None:
    """Share of the labelled pixels of each class: a mark a split, on a logarithmic axis.

    Args:
        report: of ``check``.
        path: an .svg, .png or .pdf file.

    Raises:
        MissingExtraError: matplotlib is not installed.
        InputError: another kind of file, or it cannot be written.
    """
    check_plot_path(path)
    import matplotlib as mpl
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter

    shown = [split for split in report.splits if sum(split.pixels[:-1])]
    rows = range(len(report.classes))
    shares = [[100 * pixels / sum(split.pixels[:-1]) for pixels in split.pixels[:-1]] for split in shown]
    with mpl.rc_context({"font.size": 9.5, "svg.fonttype": "none", "svg.hashsalt": "segdeploy"}):
        figure = Figure(figsize=(8, 1.6 + _ROW_IN * len(rows)), layout="constrained")
        axes = figure.add_subplot()
        axes.set_xscale("log")
        for row in rows:  # what joins the marks of one class shows how far the splits lie apart
            present = [values[row] for values in shares if values[row]]
            if present:
                axes.plot([min(present), max(present)], [row, row], color="#c4c9cf", linewidth=2, zorder=1)
        for index, (split, values) in enumerate(zip(shown, shares, strict=True)):
            axes.scatter(
                [value or float("nan") for value in values],
                rows,
                marker=_MARKS[index % len(_MARKS)],
                color=COLOURS[index % len(COLOURS)],
                edgecolor="white",
                linewidth=0.6,
                s=max(24, 90 - 22 * index),  # a mark that lies on another leaves a rim of it
                zorder=2,
                label=f"{split.name}, {split.images:,} images",
            )
        # matplotlib would read '$' as mathematics.
        axes.set_yticks(rows, [name.replace("$", r"\$") for name in report.classes])
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.set_xlabel("per cent of the labelled pixels, logarithmic; no mark: the class never occurs")
        axes.grid(color="#e3e6ea")
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        if shown:
            figure.legend(loc="outside upper center", ncols=4, frameon=False)
        with new_file(path) as temporary:
            figure.savefig(temporary, format=path.suffix[1:], dpi=130, metadata=NO_DATE[path.suffix])
