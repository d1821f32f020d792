"""Class frequencies as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from segdeploy.core.errors import InputError, MissingExtraError
from segdeploy.core.files import new_file
from segdeploy.training.check import CheckReport

_MARKS = "osD^v*"


def plot_frequencies(report: CheckReport, palette: Sequence[tuple[int, int, int]], path: Path) -> None:
    """Share of the labelled pixels a class: a bar for the first split, a mark for each other, on a logarithmic axis.

    Args:
        report: of ``check``.
        palette: RGB a class, 0..255.
        path: an .svg, .png or .pdf file.

    Raises:
        MissingExtraError: matplotlib is not installed.
        InputError: another kind of file, or it cannot be written.
    """
    if path.suffix.lower() not in {".svg", ".png", ".pdf"}:
        raise InputError(expected="--plot FILE.svg, .png or .pdf", got=f"'{path}'", fix="choose one of these endings")
    try:
        import matplotlib as mpl
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise MissingExtraError(package="matplotlib", extra="bench", purpose="plots") from error
    shown = [split for split in report.splits if sum(split.pixels[:-1])]
    count = len(report.classes)
    figure = Figure(figsize=(8, max(2.5, 0.26 * count + 1.4)), layout="constrained")
    axes = figure.add_subplot()
    for index, split in enumerate(shown):
        total = sum(split.pixels[:-1])
        shares = [100 * pixels / total for pixels in split.pixels[:-1]]
        places = list(range(count))
        if index == 0:
            colours = [tuple(value / 255 for value in colour) for colour in palette]
            axes.barh(places, shares, color=colours, edgecolor="black", linewidth=0.5, label=f"{split.name} (bars)")
        else:
            axes.plot(
                shares,
                places,
                _MARKS[(index - 1) % len(_MARKS)],
                color="black",
                markersize=5,
                fillstyle="none",
                label=split.name,
            )
    axes.set_yticks(range(count), report.classes)
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.set_xlabel("share of the labelled pixels, per cent (logarithmic)")
    axes.grid(axis="x", alpha=0.3)
    axes.set_axisbelow(True)
    if len(shown) > 1:
        axes.legend(loc="lower right", fontsize="small")
    with new_file(path) as temporary, mpl.rc_context({"svg.hashsalt": "segdeploy"}):
        figure.savefig(temporary, format=path.suffix[1:].lower(), dpi=120)
