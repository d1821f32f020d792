"""Where a candidate that failed leaves the reference: before the network, inside it, behind it, or between two runs."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import numpy as np

from segdeploy.artifact.axes import bounds
from segdeploy.artifact.manifest import Manifest
from segdeploy.artifact.verdict import Divergence, Parity
from segdeploy.images.arrays import Image, Labels, Logits
from segdeploy.images.resize import reduce_logits, resize_logits
from segdeploy.parity.comparison import explained, full_logits, leads
from segdeploy.parity.eager_probe import eager_layers
from segdeploy.parity.judge import WorstImage
from segdeploy.parity.layers import compare_layers, relative_error, rounding
from segdeploy.parity.sessions import Recorder
from segdeploy.parity.tolerance import RESIZE_ROUNDING
from segdeploy.runtime import Session
from segdeploy.runtime.backend import find_backend
from segdeploy.runtime.backends.eager import EagerSession
from segdeploy.runtime.fitting import filled

# A change of the input or of the order of classes is taken for the fault where it leaves no more than this of the error.
_MUCH_CLOSER = 0.2


def diagnose(parity: Parity, worst: WorstImage | None, candidate: Recorder, original: Session, way: str = "") -> Divergence:
    """Find the part at fault.

    Args:
        parity: a verdict of ``failed``.
        worst: the image that differs most; None where none does.
        candidate: the model that failed, still open.
        original: the reference, still open. Stored outputs tell less: nobody can look inside them.
        way: how the way from a picture to the network is known to differ; empty where it is not.
    """
    if parity.determinism is not None and parity.determinism.verdict == "failed":
        return _of_runs(parity)
    shapes_failed = any(shape.verdict == "failed" for shape in parity.shapes)
    if worst is None or worst.logits is None or not shapes_failed:
        return _around(parity, worst, candidate, original, way)
    broken = _wrong_mask(worst.image, candidate)
    if _logits_differ(parity) or not broken:
        found = _inside(worst, candidate, original)
        return msgspec.structs.replace(found, detail=f"{found.detail}; and {broken}") if broken else found
    detail = f"the logits agree, the labels do not: in the graph, {broken}"
    return Divergence(stage="postprocessing", module="", detail=detail)


def _around(parity: Parity, worst: WorstImage | None, candidate: Recorder, original: Session, way: str) -> Divergence:
    """The graph does what it should with what it is given."""
    labels = parity.labels
    if labels is not None and labels.verdict == "failed":
        if way:
            return Divergence(stage="preprocessing", module="", detail=f"given the same image the network agrees, but {way}")
        rounded = not labels.labels.firm and candidate.artifact.manifest.precision != "fp32"
        if rounded and worst is not None and worst.logits is not None:
            return _inside(worst, candidate, original)  # what the logits are off by explains every label that differs
        told = "on the way to the picture's own size, the windows, the resize or the argmax differs"
        return Divergence(stage="postprocessing", module="", detail=f"the logits agree, the labels do not: {told}")
    if parity.fit is not None:
        detail = f"the graph is right; that pictures are fitted to its shapes by {parity.fit.mode} makes the difference"
        return Divergence(stage="fit", module="", detail=detail)
    return _of_runs(parity)


def _wrong_mask(image: Image, candidate: Recorder) -> str:
    """What is wrong between a candidate's own logits and its own mask of a picture; empty where one follows from the other."""
    manifest = candidate.artifact.manifest
    candidate.begin()
    found = candidate.run(np.ascontiguousarray(image)[None])
    assert found.logits is not None
    mask, logits = found.mask[0], found.logits[0]
    if not np.isfinite(logits).all():
        return ""
    full = full_logits(logits, mask.shape, manifest)
    flipped = reduce_logits(full[None], manifest.postprocess.cutoff)[0] != mask
    if not flipped.any():
        return ""
    lead = leads(full[:, flipped], mask[flipped], manifest.postprocess.cutoff)
    if (lead <= 2 * explained(0.0, logits, RESIZE_ROUNDING[manifest.precision])).all():
        return ""
    return wrong_resize(logits, mask, manifest) or "the resize or the argmax differs"


def wrong_resize(logits: Logits, candidate: Labels, manifest: Manifest) -> str:
    """Which known mistake makes a candidate's labels from the reference's logits; empty where none does.

    Args:
        logits: the reference's [K, h, w].
        candidate: its labels [H, W].
        manifest: how it should have been done.
    """
    height, width = candidate.shape
    cutoff = manifest.postprocess.cutoff
    align = manifest.postprocess.align_corners

    def at_size(aligned: bool) -> Labels:
        return reduce_logits(resize_logits(logits[None], height, width, align_corners=aligned), cutoff)[0]

    def nearest() -> Labels:
        small = reduce_logits(logits[None], cutoff)[0]
        rows = np.arange(height) * small.shape[0] // height
        columns = np.arange(width) * small.shape[1] // width
        return np.asarray(small[rows][:, columns])

    known: tuple[tuple[str, Callable[[], Labels]], ...] = (
        (f"the logits are resized with align_corners={not align} instead of {align}", lambda: at_size(not align)),
        ("labels are resized by nearest where logits should be, bilinear", nearest),
    )
    own = float((at_size(align) == candidate).mean())
    found = [(float((make() == candidate).mean()), text) for text, make in known]
    best, text = max(found)
    return text if best > max(own, 0.999) or (best > own and 1 - best < (1 - own) / 4) else ""


def _of_runs(parity: Parity) -> Divergence:
    if parity.determinism is not None and parity.determinism.verdict == "failed":
        return Divergence(stage="runtime", module="", detail=parity.determinism.reason)
    if parity.task is not None and parity.task.verdict == "failed":
        return Divergence(
            stage="precision",
            module="",
            detail=f"no single image differs beyond the tolerance; over all of them mIoU does: {parity.task.reason}",
            sure=False,
        )
    return Divergence(stage="unknown", module="", detail="no image tells where", sure=False)


def _logits_differ(parity: Parity) -> bool:
    return any(
        shape.logits.not_finite or shape.logits.max_abs > parity.tolerance.logits_max_abs * max(1.0, shape.logits.scale)
        for shape in parity.shapes
    )


def _inside(worst: WorstImage, candidate: Recorder, original: Session) -> Divergence:
    assert worst.logits is not None
    artifact = candidate.artifact
    manifest = artifact.manifest
    candidate.begin()
    ours, swapped = (_logits(candidate, image) for image in (worst.image, worst.image[..., ::-1]))
    error = relative_error(worst.logits[None], ours)
    if error is not None and (relative_error(worst.logits[None], swapped) or error) < _MUCH_CLOSER * error:
        detail = "with red and blue exchanged in the input it agrees: the channels are swapped"
        return Divergence(stage="preprocessing", module="", detail=detail)
    find = find_backend(manifest.format).layers
    if find is None or not isinstance(original, EagerSession):
        why = f"{manifest.format} shows no layers" if find is None else "stored outputs show no layers"
        detail = f"the logits differ; {why}: verify the ONNX export of the same checkpoint, where mmseg is, to see which"
        return Divergence(stage="graph", module="", detail=detail, sure=False)
    batch = filled(worst.image[None], bounds(manifest.input.shape[0])[0])
    theirs, watched = eager_layers(original, batch), find(artifact, batch)
    found = compare_layers(theirs, watched, manifest.precision)
    if found is None and manifest.precision != "fp32" and _as_watched(ours, watched[-1].made[0], worst.logits):
        return rounding(theirs, watched, manifest.precision)
    if found is None:
        detail = (
            "every layer agrees while it is watched: what runs the graph makes the difference (its optimisation, its buffers)"
        )
        return Divergence(stage="runtime", module="", detail=detail)
    exchanged = _exchanged(worst.logits, ours[0], manifest.classes)
    return msgspec.structs.replace(found, detail=f"{found.detail}; {exchanged}") if exchanged else found


def _as_watched(logits: Logits, watched: Logits, reference: Logits) -> bool:
    """Whether the graph shows most of the error while it is watched too: else it is the runtime's."""
    beside = relative_error(watched[:1], logits)
    return beside is not None and beside <= 0.5 * (relative_error(reference[None], logits) or 0.0)


def _logits(candidate: Recorder, image: Image) -> Logits:
    logits = candidate.run(np.ascontiguousarray(image)[None]).logits
    assert logits is not None
    return logits


def _exchanged(reference: Logits, candidate: Logits, classes: tuple[str, ...]) -> str:
    """Which classes are in one another's place, where that is all that is wrong; empty where it is not."""
    count = len(reference)
    if count < 2 or not np.isfinite(candidate).all():
        return ""
    theirs, ours = (logits.reshape(count, -1).astype(np.float64) for logits in (reference, candidate))
    distances = ((theirs[:, None] - ours[None]) ** 2).sum(-1)  # [K, K]
    order = distances.argmin(1)
    if sorted(order) != list(range(count)) or (order == np.arange(count)).all():
        return ""
    if distances[np.arange(count), order].sum() > _MUCH_CLOSER**2 * np.trace(distances):
        return ""
    moved = [classes[index] for index in range(count) if order[index] != index]
    return f"the classes {', '.join(moved)} are in one another's place"
