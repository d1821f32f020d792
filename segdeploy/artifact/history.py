"""Which verdict of a history counts.

A verdict is bound to the files that it was taken on and to the kind of device. A failure counts at once, and until a pass
answers it: one on all the pictures that failed, at the shapes that failed, on evidence that is no weaker. Each failure is
answered by itself. Nothing else replaces what rests on stronger evidence, and ``skipped`` replaces nothing at all. Evidence is
weaker on noise than on pictures; then at tolerances that the user chose than at the default ones; then on fewer pictures.
"""

from __future__ import annotations

from collections.abc import Sequence

from segdeploy.artifact.verdict import DeviceKind, Parity, worst


def counting(history: Sequence[Parity], files: tuple[str, ...], device: DeviceKind | None = None) -> Parity | None:
    """The verdict that counts.

    Args:
        history: the oldest first.
        files: SHA-256 of the artifact's files as they are now.
        device: the kind that is asked about; None for the worst of all kinds.

    Returns:
        None where there is none of these files on that kind; one that was ``skipped`` only where there is no other.
    """
    ours = [one for one in history if one.files == files]
    kinds = [device] if device else list(dict.fromkeys(one.device_kind for one in ours))
    found = [one for one in (_last_word(ours, kind) for kind in kinds) if one is not None]
    if not found:
        return next((one for one in reversed(ours) if one.verdict == "skipped"), None)
    judged = worst(one.verdict for one in found)
    return next(one for one in found if one.verdict == judged)


def _last_word(history: Sequence[Parity], kind: DeviceKind | None) -> Parity | None:
    word: Parity | None = None
    unanswered: list[Parity] = []
    for one in history:
        if one.verdict == "skipped" or one.device_kind != kind:
            continue
        if one.verdict == "failed":
            unanswered.append(one)
            continue
        if one.verdict == "passed":
            unanswered = [failure for failure in unanswered if not _answers(one, failure)]
        if word is None or _evidence(one) >= _evidence(word):
            word = one
    return unanswered[-1] if unanswered else word


def _answers(passed: Parity, failure: Parity) -> bool:
    """Other pictures answer none: a fault that shows on some is not gone because others do not show it.

    Real pictures answer noise. Of an older verdict nobody knows on which pictures it failed; there their number has to do.
    """
    if _evidence(passed) < _evidence(failure):
        return False
    if failure.noise and not passed.noise:
        return True
    shapes = {one.shape for one in failure.shapes if one.verdict == "failed"}
    return shapes <= {one.shape for one in passed.shapes} and set(failure.pictures) <= set(passed.pictures)


def _evidence(one: Parity) -> tuple[bool, bool, int]:
    return not one.noise, not one.tolerance.overridden, one.images
