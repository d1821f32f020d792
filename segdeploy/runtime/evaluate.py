"""mIoU of any Session on labelled images: one loop for ``eval``, ``bench`` and the demo."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from segdeploy.core.dataset import Sample, read_label
from segdeploy.core.imaging import Image, Labels, read_image
from segdeploy.core.metrics import ConfusionMatrix, Evaluation
from segdeploy.core.progress import progress_bar
from segdeploy.runtime.predictor import predict_labels
from segdeploy.runtime.session import Session


def evaluate(
    session: Session,
    samples: Sequence[Sample],
    *,
    label: str = "eval",
    seen: Callable[[Sample, Image, Labels], None] | None = None,
) -> Evaluation:
    """Predict every sample at its own size and score it as mmseg does.

    Args:
        session: the model.
        samples: images with labels.
        label: what to call the progress bar.
        seen: called with each sample, its image and its prediction (for pictures of them).

    Raises:
        InputError: an image or label map cannot be used.
    """
    manifest = session.artifact.manifest
    matrix = ConfusionMatrix(len(manifest.classes), manifest.ignore_index)
    with progress_bar(label, len(samples)) as advance:
        for sample in samples:
            image = read_image(sample.image)
            prediction = predict_labels(session, image)
            truth = read_label(sample.label, reduce_zero_label=manifest.reduce_zero_label)
            matrix.add(prediction, truth, f"'{sample.label}'")
            if seen is not None:
                seen(sample, image, prediction)
            advance()
    return matrix.evaluation(manifest.classes)
