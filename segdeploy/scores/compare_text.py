"""A comparison of two evaluations in words and as a table."""

from __future__ import annotations

from collections.abc import Sequence

from segdeploy.scores.compare import Change, Comparison, difference
from segdeploy.scores.read import Figures

# mmseg logs two digits: a difference of two rounded figures is uncertain by one unit of the last.
_ROUNDING = 0.01


def summary(comparison: Comparison) -> tuple[str, ...]:
    """What a reader should take away, in sentences."""
    old, new = comparison.old, comparison.new
    said = []
    delta = difference(old.miou, new.miou)
    same_classes = not comparison.only_old and not comparison.only_new
    if delta is None:
        said.append("One of the two has no mIoU.")
    else:
        said.append(f"mIoU {_verb(delta)}: {old.miou:.2f} to {new.miou:.2f}.")
    if not same_classes and comparison.common_old is not None and comparison.common_new is not None:
        both = sum(one.iou is not None for one in comparison.changes)
        step = _verb(comparison.common_new - comparison.common_old)
        said.append(
            f"Over the {both} classes in both, mIoU {step}: {comparison.common_old:.2f} to {comparison.common_new:.2f}."
        )
    gains = [one for one in comparison.changes if one.iou is not None and one.iou > _ROUNDING]
    losses = [one for one in reversed(comparison.changes) if one.iou is not None and one.iou < -_ROUNDING]
    count = len(comparison.changes)
    said.append(f"IoU rises in {len(gains)} of {count} classes{_most(gains)} and falls in {len(losses)}{_most(losses)}.")
    said += [_why(one) for one in losses[:5] if one.acc is not None and one.precision is not None]
    lost = [one.name for one in comparison.changes if one.iou is None]
    if lost:
        said.append(f"Without an IoU in one of the two: {', '.join(lost)}.")
    if comparison.only_old:
        said.append(f"Only in '{old.source}': {', '.join(comparison.only_old)}.")
    if comparison.only_new:
        said.append(f"Only in '{new.source}': {', '.join(comparison.only_new)}.")
    return tuple(said)


def table(comparison: Comparison) -> tuple[list[str], list[list[str]]]:
    """Columns and cells: the classes in both, those in one only, then the means."""
    columns = ["class", *(head for name in ("IoU", "Acc", "precision") for head in (f"{name} old", "new", "change"))]
    rows = [[one.name, *_triples(one.old, one.new)] for one in comparison.changes]
    none = Figures(iou=None, acc=None, precision=None)
    rows += [[f"{name} (old only)", *_triples(comparison.old.classes[name], none)] for name in comparison.only_old]
    rows += [[f"{name} (new only)", *_triples(none, comparison.new.classes[name])] for name in comparison.only_new]
    old, new = comparison.old, comparison.new
    rows.append(["mean (mIoU, mAcc)", *_triple(old.miou, new.miou), *_triple(old.macc, new.macc), "", "", ""])
    if old.aacc is not None or new.aacc is not None:
        rows.append(["all pixels (aAcc)", "", "", "", *_triple(old.aacc, new.aacc), "", "", ""])
    return columns, rows


def _verb(delta: float) -> str:
    if abs(delta) < _ROUNDING:
        return f"changes by less than {_ROUNDING} points"
    return f"{'rises' if delta > 0 else 'falls'} by {abs(delta):.2f} points"


def _most(changes: Sequence[Change]) -> str:
    return f" (most: {', '.join(f'{one.name} {one.iou:+.2f}' for one in changes[:3])})" if changes else ""


def _why(change: Change) -> str:
    """Whether more was missed or more was wrongly found: IoU follows from Acc and precision alone."""
    assert change.acc is not None
    assert change.precision is not None
    figures = f"Acc {change.acc:+.2f}, precision {change.precision:+.2f}"
    if change.acc >= 0 > change.precision:
        cause = "more pixels are wrongly taken for it, not more of it missed"
    elif change.precision >= 0 > change.acc:
        cause = "more of it is missed, not more wrongly taken for it"
    else:
        cause = "more of it is missed, and more pixels are wrongly taken for it"
    return f"{change.name}: {cause} ({figures})."


def _triples(old: Figures, new: Figures) -> list[str]:
    return [*_triple(old.iou, new.iou), *_triple(old.acc, new.acc), *_triple(old.precision, new.precision)]


def _triple(old: float | None, new: float | None) -> list[str]:
    delta = difference(old, new)
    change = "-" if delta is None else f"{delta:+.2f}"
    # A difference that rounds to nothing has no sign.
    return [_shown(old), _shown(new), change[1:] if change in ("+0.00", "-0.00") else change]


def _shown(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
