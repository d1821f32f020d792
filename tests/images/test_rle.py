"""COCO's run lengths, read back by pycocotools."""

from __future__ import annotations

import numpy as np
import pytest

from segdeploy.images.rle import encode_rle

mask = pytest.importorskip("pycocotools.mask", reason="pycocotools is not installed")


def cases():
    random = np.random.default_rng(0)
    yield "noise", random.integers(0, 5, (37, 53))
    yield "blocks", np.kron(random.integers(0, 4, (5, 7)), np.ones((31, 23), int))
    yield "one label", np.full((9, 4), 2)
    yield "one pixel", np.zeros((1, 1), int)
    yield (
        "runs of more than five, ten and fifteen bits",
        np.repeat([0, 1, 2, 0, 3, 1], [70_000, 3, 900, 40_000, 31, 200])[:, None],
    )
    yield "void and int32", np.where(random.random((20, 20)) < 0.5, 255, 1).astype(np.int32)


@pytest.mark.parametrize(("labels"), [pytest.param(labels.astype(np.int32), id=name) for name, labels in cases()])
@pytest.mark.parametrize("dtype", [np.uint8, np.int32])
def test_pycocotools_reads_the_masks_and_would_write_the_same(labels, dtype):
    """Each label's mask comes back, one that does not occur too, and the text is pycocotools' own to the letter."""
    labels = labels.astype(dtype)
    wanted = [*np.unique(labels).tolist(), 77]
    encoded = encode_rle(labels, wanted)
    assert list(encoded) == wanted
    for label, counts in encoded.items():
        rle = {"size": list(labels.shape), "counts": counts.encode()}
        assert np.array_equal(mask.decode(rle), labels == label)
        assert mask.encode(np.asfortranarray(labels == label, np.uint8))["counts"] == counts.encode()
