"""Which verdict of a history counts.

A verdict is bound to the files that it was taken on and to the kind of device. A failure counts at once, and until a verdict
on evidence that is no weaker says otherwise. Nothing else replaces what rests on stronger evidence, and ``skipped`` replaces
nothing at all. Evidence is weaker on noise than on pictures; then at tolerances that the user chose than at the default ones;
then on fewer pictures.
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
    for one in history:
        if one.verdict == "skipped" or one.device_kind != kind:
            continue
        if word is None or one.verdict == "failed" or _evidence(one) >= _evidence(word):
            word = one
    return word


def _evidence(one: Parity) -> tuple[bool, bool, int]:
    return not one.noise, not one.tolerance.overridden, one.images
