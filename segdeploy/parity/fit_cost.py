"""What a fit costs: the reference's own loss, of pictures that do not come to it as the pipeline leaves them."""

from __future__ import annotations

from segdeploy.artifact.manifest import Manifest
from segdeploy.artifact.verdict import FitParity
from segdeploy.images.arrays import Labels
from segdeploy.scores.confusion_matrix import ConfusionMatrix


class FitCost:
    """Collects the reference's labels without and through a fit."""

    def __init__(self, manifest: Manifest) -> None:
        """Begin with nothing.

        Args:
            manifest: of the candidate.
        """
        self._manifest = manifest
        self._truth = ConfusionMatrix(len(manifest.classes), manifest.ignore_index, manifest.nan_to_num)
        self._images = self._pixels = self._by_fit = self._in_all = 0

    def add(self, reference: Labels, candidate: Labels, through: Labels, truth: Labels | None) -> None:
        """Count one picture: labels [H, W] of the reference, of the candidate, of the reference through the fit."""
        self._images += 1
        self._pixels += reference.size
        self._by_fit += int((through != reference).sum())
        self._in_all += int((candidate != reference).sum())
        if truth is not None:
            self._truth.add(through, truth, "the label map")

    def result(self) -> FitParity | None:
        """The figures; None where there was no such picture."""
        if not self._images:
            return None
        labelled = self._truth.images > 0
        return FitParity(
            mode=self._manifest.fit.mode,
            images=self._images,
            pixels=self._pixels,
            differ_by_fit=self._by_fit,
            differ=self._in_all,
            miou_reference=self._truth.evaluation(self._manifest.classes).miou if labelled else None,
        )
