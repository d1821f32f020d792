"""One dynamic artifact of each format against the model, over sizes, shapes and batches."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch

from segdeploy.runtime import open_session

# N, H, W: multiples of 32 and not, square, portrait, landscape, down to the stride, up to 1024 on either side.
SHAPES = (
    (1, 32, 32),
    (4, 64, 64),
    (2, 33, 65),
    (1, 64, 1024),
    (1, 1024, 64),
    (3, 97, 131),
    (2, 160, 96),
    (4, 75, 50),
    (1, 255, 257),
    (2, 49, 203),
    (3, 128, 40),
    (1, 333, 500),
    (1, 512, 96),
)


@pytest.fixture(scope="module")
def wide(export_tiny, tmp_path_factory, pt2_artifact):
    """A format -> its one artifact, for anything up to 1024 pixels."""
    folder = tmp_path_factory.mktemp("wide")
    made = {fmt: export_tiny(fmt, folder / fmt, largest="1024x1024") for fmt in ("torchscript", "onnx")}
    return made | {"pt2": pt2_artifact}


@pytest.fixture(scope="module")
def reference(mmseg_model):
    """(N, H, W) -> images of blobs, and the logits and labels of mmseg's own model."""
    answers = {}
    for count, height, width in SHAPES:
        random = np.random.default_rng(width)
        blobs = [random.integers(0, 256, (7, 9, 3), dtype=np.uint8) for _ in range(count)]
        images = np.stack([cv2.resize(blob, (width, height)) for blob in blobs])
        bgr = [torch.tensor(image[..., ::-1].transpose(2, 0, 1).copy()) for image in images]
        with torch.no_grad():
            logits = mmseg_model(mmseg_model.data_preprocessor({"inputs": bgr})["inputs"], mode="tensor")
            labels = torch.nn.functional.interpolate(logits, (height, width), mode="bilinear").argmax(1)
        answers[count, height, width] = images, logits.numpy(), labels.numpy()
    return answers


@pytest.mark.parametrize("fmt", ["torchscript", "onnx", "pt2"])
def test_every_shape(wide, reference, fmt):
    """Logits within 1e-4 of mmseg's, and labels that are the same, at thirteen sizes and batches of one to four."""
    seen = set()
    with open_session(wide[fmt], "cpu") as session:
        for shape, (images, logits, labels) in reference.items():
            ours = session.run(images, logits=True)
            np.testing.assert_allclose(ours.logits, logits, rtol=0, atol=1e-4, err_msg=str(shape))
            assert (ours.mask != labels).mean() <= 1e-4, shape
            seen |= set(np.unique(ours.mask))
    assert len(seen) >= 3, "masks of one class would prove little"
