"""The worst image as a picture: what went in, both masks, where they differ, and how sure the reference was there."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from segdeploy.artifact.manifest import Manifest
from segdeploy.base.files import write_file
from segdeploy.images.arrays import Image, Labels
from segdeploy.images.drawing import captioned, class_shares, overlay, with_legend
from segdeploy.images.label_png import encode_png
from segdeploy.parity.comparison import full_logits, margins
from segdeploy.parity.judge import WorstImage

_FLIP = (255, 0, 60)
_SMALLEST_SIDE = 256  # a picture below that is enlarged, so that single pixels can be seen


def draw_worst(worst: WorstImage, manifest: Manifest, folder: Path) -> Path:
    """Write ``worst.png`` into a folder.

    Args:
        worst: the image that differs most.
        manifest: its classes and palette.
        folder: made where it is missing.

    Returns:
        The file.

    Raises:
        InputError: it cannot be written.
    """
    flipped = worst.reference != worst.candidate
    panels = [
        (f"input: {worst.name}", worst.image),
        ("reference", overlay(worst.image, worst.reference, manifest.palette)),
        ("candidate", overlay(worst.image, worst.candidate, manifest.palette)),
        (f"{int(flipped.sum())} labels differ", _marked(worst.image, flipped)),
    ]
    if worst.logits is not None:
        panels.append(("margin of the reference", _margin_map(worst, manifest)))
    enlarge = max(1, round(_SMALLEST_SIDE / min(worst.image.shape[:2])))
    shown = [
        captioned(text, np.asarray(cv2.resize(panel, None, fx=enlarge, fy=enlarge, interpolation=cv2.INTER_NEAREST), np.uint8))
        for text, panel in panels
    ]
    row = np.concatenate(shown, axis=1)
    present = {**_present(worst.reference, manifest), **_present(worst.candidate, manifest)}
    path = folder / "worst.png"
    write_file(path, encode_png(with_legend(row, manifest.classes, manifest.palette, present)))
    return path


def _marked(image: Image, flipped: np.ndarray[tuple[int, int], np.dtype[np.bool_]]) -> Image:
    grey = np.repeat(image.mean(-1, keepdims=True), 3, axis=-1) * 0.5
    return np.where(flipped[..., None], np.array(_FLIP), grey).astype(np.uint8)


def _margin_map(worst: WorstImage, manifest: Manifest) -> Image:
    """Dark where the reference was unsure: that is where flips are no defect."""
    assert worst.logits is not None
    height, width = worst.reference.shape
    margin = margins(full_logits(worst.logits, (height, width), manifest), manifest.postprocess.cutoff)
    top = float(np.quantile(margin, 0.99)) or 1.0
    coloured = cv2.applyColorMap((np.clip(margin / top, 0, 1) * 255).astype(np.uint8), cv2.COLORMAP_VIRIDIS)
    return np.ascontiguousarray(coloured[..., ::-1])


def _present(labels: Labels, manifest: Manifest) -> dict[int, float | None]:
    return dict.fromkeys(class_shares(labels, len(manifest.classes)))
