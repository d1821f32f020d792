"""What changed between two evaluations: class by class, the means, and whether a gate holds."""

from __future__ import annotations

from typing import Literal

from segdeploy.base.errors import GateFailed, GateUndecided
from segdeploy.base.records import Struct
from segdeploy.scores.read import Figures, Scores, mean

SCHEMA = 1
_FLOAT = 1e-9  # 67.91 - 67.41 is a little more than 0.5


class Change(Struct, frozen=True):
    """One class in both evaluations."""

    name: str
    old: Figures
    new: Figures

    @property
    def iou(self) -> float | None:
        """New less old, in points."""
        return difference(self.old.iou, self.new.iou)

    @property
    def acc(self) -> float | None:
        """New less old, in points."""
        return difference(self.old.acc, self.new.acc)

    @property
    def precision(self) -> float | None:
        """New less old, in points."""
        return difference(self.old.precision, self.new.precision)


class Comparison(Struct, frozen=True):
    """Two evaluations beside each other; the content of ``segdeploy compare --json``.

    Attributes:
        schema: 1.
        kind: what was compared.
        old: the first.
        new: the second.
        changes: the classes in both, the largest gain of IoU first; without an IoU in one of them, last.
        only_old: classes that only the first has.
        only_new: classes that only the second has.
        common_old: the first's mean IoU over the classes that have one in both.
        common_new: the second's.
        cautions: why the two may not be comparable.
    """

    schema: int
    kind: Literal["evaluations"]
    old: Scores
    new: Scores
    changes: tuple[Change, ...]
    only_old: tuple[str, ...]
    only_new: tuple[str, ...]
    common_old: float | None
    common_new: float | None
    cautions: tuple[str, ...]


def compare(old: Scores, new: Scores) -> Comparison:
    """Match classes by name."""
    changes = [Change(name=name, old=old.classes[name], new=new.classes[name]) for name in old.classes if name in new.classes]
    changes.sort(key=lambda one: (one.iou is None, -(one.iou or 0.0)))
    common = [one for one in changes if one.iou is not None]
    return Comparison(
        schema=SCHEMA,
        kind="evaluations",
        old=old,
        new=new,
        changes=tuple(changes),
        only_old=tuple(name for name in old.classes if name not in new.classes),
        only_new=tuple(name for name in new.classes if name not in old.classes),
        common_old=mean([one.old.iou for one in common]),
        common_new=mean([one.new.iou for one in common]),
        cautions=_cautions(old, new),
    )


def difference(old: float | None, new: float | None) -> float | None:
    """New less old; None where either is missing."""
    return None if old is None or new is None else new - old


def gate(comparison: Comparison, *, max_drop: float | None, max_class_drop: float | None) -> None:
    """Hold the second evaluation to the first.

    Args:
        comparison: the two.
        max_drop: how many points mIoU may fall, over the classes in both.
        max_class_drop: how many points the IoU of any class may fall.

    Raises:
        GateFailed: it fell further.
        GateUndecided: the two are not comparable, or a class of the first has no IoU in the second.
    """
    if max_drop is None and max_class_drop is None:
        return
    if comparison.cautions:
        raise GateUndecided(
            expected="evaluations that can be compared", got=comparison.cautions[0], fix="evaluate both in the same way"
        )
    if max_drop is not None:
        if comparison.common_old is None or comparison.common_new is None:
            raise GateUndecided(expected="classes with an IoU in both", got="none", fix="check the two files")
        check_drop("mIoU", comparison.common_old, comparison.common_new, max_drop)
    if max_class_drop is not None:
        for one in reversed(comparison.changes):
            if one.old.iou is not None and one.new.iou is not None:
                check_drop(f"IoU of '{one.name}'", one.old.iou, one.new.iou, max_class_drop)
    lost = [one.name for one in comparison.changes if one.old.iou is not None and one.new.iou is None]
    lost += comparison.only_old
    if lost:
        raise GateUndecided(
            expected="every class of the first evaluation in the second",
            got=f"no IoU of {', '.join(lost)} there",
            fix="evaluate both with the same classes on the same images",
        )


def check_drop(what: str, old: float, new: float, limit: float) -> None:
    """Hold one figure to another.

    Raises:
        GateFailed: it fell by more than the limit, in points.
    """
    if old - new > limit + _FLOAT:
        raise GateFailed(
            expected=f"{what} to fall by at most {limit:g} points",
            got=f"{old - new:.2f}: {old:.2f} to {new:.2f}",
            fix="see the table",
        )


def _cautions(old: Scores, new: Scores) -> tuple[str, ...]:
    found = [f"'{one.source}' is of a part of its images only" for one in (old, new) if not one.complete]
    for what, before, after in (("images", old.images, new.images), ("methods", old.method, new.method)):
        if before is not None and after is not None and before != after:
            found.append(f"the {what} differ: {before}, and {after}")
    return tuple(found)
