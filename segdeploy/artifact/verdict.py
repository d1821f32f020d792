"""The record of a parity verdict: what was compared, the figures, what was allowed, and where a difference begins.

Axes: N images, K classes, H and W of the network's input.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, TypeAlias

from segdeploy.base.records import Struct

Verdict: TypeAlias = Literal["passed", "failed", "undecided", "skipped"]
DeviceKind: TypeAlias = Literal["cpu", "cuda"]
Stage: TypeAlias = Literal["preprocessing", "fit", "graph", "precision", "postprocessing", "runtime", "server", "unknown"]


class Tolerance(Struct, frozen=True):
    """What parity allows.

    Attributes:
        logits_max_abs: largest absolute difference of a logit, relative to the largest absolute reference logit above 1.
        mask_agreement: least share of pixels with the same label.
        miou_points: how many points of mIoU count as no difference.
        overridden: which of these were chosen by the user, not by the precision.
    """

    logits_max_abs: float
    mask_agreement: float
    miou_points: float
    overridden: tuple[str, ...] = ()


class LogitFigures(Struct, frozen=True):
    """Differences of logits.

    Attributes:
        max_abs: the largest absolute difference.
        mean_abs: the mean of them.
        p99_abs: 99 % of them lie at or below this, to 5 % of its value.
        scale: the largest absolute reference logit.
        relative_l2: length of the difference over length of the reference, both as one vector.
        cosine: of the angle between the two.
        psnr_db: peak signal to noise, the peak being ``scale``; None where there is no difference.
        decades: how many differences have which order of magnitude: (-5, n) for 1e-5 up to 1e-4; the first also counts all
            that are smaller, the last all that are larger.
        class_max_abs: the largest of each class.
        not_finite: how many values are NaN or infinite on either side.
    """

    max_abs: float
    mean_abs: float
    p99_abs: float
    scale: float
    relative_l2: float
    cosine: float
    psnr_db: float | None
    decades: tuple[tuple[int, int], ...]
    class_max_abs: tuple[float, ...]
    not_finite: int


class FlipFigures(Struct, frozen=True):
    """Pixels that changed their label.

    Attributes:
        pixels: how many were compared.
        differ: how many differ.
        agreement: the share that does not, ties aside, in [0, 1].
        band: how many of those that differ lie within three pixels of a border between the reference's labels.
        interior: how many do not.
        firm: how many the reference held by a margin that no logit error explains: the mask was made from the logits in
            another way.
        margin_max: the largest margin (the reference's best logit less that of the candidate's label, at the mask's size) of
            a pixel that differs; 0 where none does.
        classes: how many of each reference label differ.
        ties: how many of those that differ the reference held by no more than float32 rounds.
    """

    pixels: int
    differ: int
    agreement: float
    band: int
    interior: int
    firm: int
    margin_max: float
    classes: tuple[int, ...]
    ties: int = 0


class ShapeParity(Struct, frozen=True):
    """Logits and masks of one input shape.

    Attributes:
        shape: (N, H, W); None for every picture at the size that its own preprocessing gives it.
        images: how many images were compared.
        logits: of the decode head.
        masks: as the graph makes them, at the network's input size.
        verdict: of both.
        reason: what lies outside the tolerance.
    """

    shape: tuple[int, int, int] | None
    images: int
    logits: LogitFigures
    masks: FlipFigures
    verdict: Verdict
    reason: str = ""


class LabelParity(Struct, frozen=True):
    """The labels that a user gets: at each picture's own size, all resizing done.

    Attributes:
        images: how many.
        labels: the figures.
        verdict: of them.
        reason: what lies outside the tolerance.
    """

    images: int
    labels: FlipFigures
    verdict: Verdict
    reason: str = ""


class FitParity(Struct, frozen=True):
    """What the fit costs, of pictures that do not come to the artifact as the pipeline leaves them.

    Attributes:
        mode: of the artifact's fit.
        images: how many such pictures there were.
        pixels: of them.
        differ_by_fit: labels that the reference itself gives otherwise when its pictures go through the same fit.
        differ: labels of the artifact that are not the reference's, for both reasons.
        miou_reference: of the reference through the fit, in per cent; None without labels.
    """

    mode: str
    images: int
    pixels: int
    differ_by_fit: int
    differ: int
    miou_reference: float | None

    @property
    def words(self) -> str:
        """In a line."""
        of_all, by_fit = (100 * count / self.pixels for count in (self.differ, self.differ_by_fit))
        score = "" if self.miou_reference is None else f", and then has a mIoU of {self.miou_reference:.2f}"
        return (
            f"fit by {self.mode}, {self.images} pictures: {of_all:.3f} % of the labels are not the checkpoint's; "
            f"through the same fit the checkpoint itself changes {by_fit:.3f} %{score}"
        )


class ClassDifference(Struct, frozen=True):
    """IoU of one class.

    Attributes:
        name: of the class.
        reference: in per cent; None where it occurs in neither labels nor masks.
        candidate: likewise.
        images: how many have labels of it.
        low: the least difference (candidate less reference, in points) that the data allow, at 95 % confidence; None where
            too few images have labels of it.
        high: the largest, likewise.
        lost: it keeps less than half of its IoU, which was more than a point; ``perhaps`` where that rests on too few images.
    """

    name: str
    reference: float | None
    candidate: float | None
    images: int = 0
    low: float | None = None
    high: float | None = None
    lost: Literal["no", "perhaps", "yes"] = "no"


class TaskParity(Struct, frozen=True):
    """Is one as good as the other at the task?

    Attributes:
        images: how many were labelled.
        miou_reference: in per cent, as mmseg computes it: over the classes that occur in labels or in this model's masks;
            None where none does.
        miou_candidate: likewise.
        low: the least difference (candidate less reference, in points) that the data allow, at 95 % confidence; None where
            there are too few images to say, or where no image differs.
        high: the largest, likewise.
        epsilon: how many points the candidate may be worse.
        images_needed: about how many images would decide with a probability of 80 %; None where it is decided.
        classes: each.
        verdict: ``failed`` where a class is lost, or where the whole interval lies below -epsilon; ``passed`` where none of
            it does, and no class is perhaps lost (of a surely better model: lost but for a tenth); else ``undecided``;
            ``skipped`` without labels.
        reason: why, in words.
        difference: candidate less reference, in points, over the classes that occur in the labels, for both alike: that
            which the interval is of. The two mIoU above may count different classes.
    """

    images: int
    miou_reference: float | None
    miou_candidate: float | None
    low: float | None
    high: float | None
    epsilon: float
    images_needed: int | None
    classes: tuple[ClassDifference, ...]
    verdict: Verdict
    reason: str
    difference: float | None = None


class Determinism(Struct, frozen=True):
    """Does the same picture always get the same labels?

    Attributes:
        pixels: how many labels were compared each time.
        again: how many differ when the same batch is run twice.
        again_logits: by how much the logits then differ.
        batched: how many differ between pictures alone and the same in a batch of distinct ones; None where a batch is of one.
        batched_logits: by how much the logits then differ.
        verdict: ``failed`` where logits differ by more than rounding, or labels by more than that explains.
        reason: in words.
        after: how many differ when other shapes were run in between; None where there are none.
        after_logits: by how much the logits then differ.
        concurrent: of a server, how many pictures asked for at the same time got other labels than alone.
    """

    pixels: int
    again: int
    again_logits: float | None
    batched: int | None
    batched_logits: float | None
    verdict: Verdict
    reason: str = ""
    after: int | None = None
    after_logits: float | None = None
    concurrent: int | None = None


class LayerError(Struct, frozen=True):
    """How far one layer's output is from the reference's.

    Attributes:
        module: its path in the checkpoint.
        op: what it is in the artifact.
        relative: length of the difference over length of the reference; None where it is not finite.
        added: that, less the largest of what it was given.
    """

    module: str
    op: str
    relative: float | None
    added: float | None


class Divergence(Struct, frozen=True):
    """Where a difference begins.

    Attributes:
        stage: the part at fault.
        module: the first module whose output differs, or in whose own code it does; empty outside of the network.
        detail: in words.
        layers: those that add most, the worst first.
        sure: False where something that could be at fault was not looked at.
    """

    stage: Stage
    module: str
    detail: str
    layers: tuple[LayerError, ...] = ()
    sure: bool = True


class Check(Struct, frozen=True):
    """One line of a verdict."""

    name: str
    verdict: Verdict
    reason: str


class Parity(Struct, frozen=True):
    """A verdict on a candidate against its reference, with the figures behind it.

    Attributes:
        reference: what it was held against.
        inputs: on which pictures.
        device: where the candidate ran.
        tolerance: what was allowed.
        shapes: logits and masks, a shape each.
        verdict: the worst of all checks that were made; ``skipped`` where none was.
        reason: why it was skipped.
        labels: at the pictures' own sizes.
        task: on the pictures with labels.
        determinism: of the candidate.
        divergence: where the difference begins, of a candidate that failed.
        fit: what that costs; None where all pictures came to the candidate as the pipeline leaves them.
        command: what was typed.
        seconds: that it took, without loading the models.
        forward_seconds: how much of that both models ran.
        left_out: ends of the artifact's ranges, (N, H, W), that were too large to run unasked.
        when: ISO 8601 with the offset; None of one that was taken before there was a history.
        files: SHA-256 of the artifact's files that it was taken on, in the manifest's order.
        provider: what ran the candidate, such as ``CPUExecutionProvider``; empty where nothing did.
        processor: the CPU's or the GPU's model; empty where it is not known.
        noise: there were no pictures, and the inputs were seeded noise.
        unrecorded: why it does not stand in the artifact's manifest; empty where it does.
        pictures: of each that it was taken on, the beginning of a SHA-256 of its pixels; empty of older verdicts.
        broken: the artifact could not be opened, or the reference not be run: ``reason`` is an error, and nothing was judged.
    """

    reference: str
    inputs: str
    device: str
    tolerance: Tolerance
    shapes: tuple[ShapeParity, ...]
    verdict: Verdict
    reason: str = ""
    labels: LabelParity | None = None
    task: TaskParity | None = None
    determinism: Determinism | None = None
    divergence: Divergence | None = None
    fit: FitParity | None = None
    command: str = ""
    seconds: float = 0.0
    forward_seconds: float = 0.0
    left_out: tuple[tuple[int, int, int], ...] = ()
    when: str | None = None
    files: tuple[str, ...] = ()
    provider: str = ""
    processor: str = ""
    noise: bool = False
    unrecorded: str = ""
    broken: bool = False
    pictures: tuple[str, ...] = ()

    @property
    def device_kind(self) -> DeviceKind | None:
        """``cpu`` or ``cuda``; None where the candidate did not run, or nobody knows where."""
        kind = self.device.partition(" ")[0]
        return kind if kind in ("cpu", "cuda") else None  # type: ignore[return-value]  # the line itself holds it

    @property
    def images(self) -> int:
        """How many pictures it rests on; at other shapes than their own some may have stood in for several."""
        own = [shape.images for shape in self.shapes if shape.shape is None]
        return self.labels.images if self.labels else max(own, default=0)

    @property
    def checks(self) -> tuple[Check, ...]:
        """Every check, those that were not made among them."""
        if self.verdict == "skipped":
            return tuple(Check(name=name, verdict="skipped", reason=self.reason) for name in CHECKS)
        found = [Check(name=shape_check(one.shape), verdict=one.verdict, reason=one.reason) for one in self.shapes] or [
            Check(name=CHECKS[0], verdict="skipped", reason="a server gives labels only")
        ]
        found += [Check(name=shape_check(shape), verdict="skipped", reason=_too_large(shape)) for shape in self.left_out]
        rest = zip(CHECKS[1:], (self.labels, self.task, self.determinism), strict=True)
        return (
            *found,
            *(
                Check(name=name, verdict="skipped", reason="not asked for")
                if one is None
                else Check(name=name, verdict=one.verdict, reason=one.reason)
                for name, one in rest
            ),
        )


CHECKS = ("logits and masks", "labels at the pictures' own size", "mIoU", "determinism")


def describe_shape(shape: tuple[int, int, int] | None) -> str:
    """For tables."""
    return "own sizes" if shape is None else f"{shape[0]} x {shape[1]}x{shape[2]}"


def shape_check(shape: tuple[int, int, int] | None) -> str:
    """The name of the check of one shape."""
    return f"{CHECKS[0]}, {describe_shape(shape)}"


def _too_large(shape: tuple[int, int, int]) -> str:
    count, height, width = shape
    wanted = f"--shape {height}x{width} --batch {count}"
    return f"not looked at: {count * height * width / 1e6:.1f} million pixels in a batch; {wanted} runs it"


def worst(verdicts: Iterable[Verdict]) -> Verdict:
    """One verdict for several: the worst that was reached; ``skipped`` where none was."""
    found = set(verdicts)
    order: tuple[Verdict, ...] = ("failed", "undecided", "passed")
    return next((verdict for verdict in order if verdict in found), "skipped")
