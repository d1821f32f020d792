"""mIoU of one backend, inside its worker process."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from segdeploy.bench.protocol import Evaluated
from segdeploy.images.arrays import Image, Labels
from segdeploy.images.dataset import Sample
from segdeploy.images.decode import MAX_PIXELS
from segdeploy.images.label_png import label_png
from segdeploy.runtime.evaluation import evaluate
from segdeploy.runtime.session import Session


def measure_accuracy(
    session: Session, samples: Sequence[Sample], *, keep: int, advance: Callable[[], None], max_pixels: int = MAX_PIXELS
) -> Evaluated:
    """Evaluate a session as ``segdeploy eval`` does.

    Args:
        session: the model.
        samples: images with labels.
        keep: how many predictions to keep, from the first on.
        advance: called after every image.
        max_pixels: of an image and of a label map; see ``decode_image``.

    Raises:
        InputError: an image or label map cannot be used.
    """
    predictions: list[bytes] = []

    def seen(_sample: Sample, _image: Image, labels: Labels) -> None:
        if len(predictions) < keep:
            predictions.append(label_png(labels, session.artifact.manifest.palette))
        advance()

    result = evaluate(session, samples, seen=seen, max_pixels=max_pixels)
    # Without one labelled pixel the mean is not a number, and JSON has no such thing.
    return Evaluated(None if math.isnan(result.miou) else result, tuple(predictions))
