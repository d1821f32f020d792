"""Labels without the resized logits: held against torch, which makes them all."""

import cv2
import numpy as np
import pytest
import torch
from torch.nn import functional

from segdeploy.images import labels as module
from segdeploy.images.labels import Step, labels_of_logits, to_size


def regions(seed, classes, height, width, noise=0.1):
    """Logits with regions of several classes, as a model makes them: float32 [K, h, w]."""
    random = np.random.default_rng(seed)
    coarse = random.normal(0, 4, (classes, max(height // 6, 2), max(width // 6, 2))).astype(np.float32)
    smooth = np.stack([cv2.resize(one, (width, height), interpolation=cv2.INTER_CUBIC) for one in coarse])
    return (smooth + random.normal(0, noise, smooth.shape)).astype(np.float32)


def by_torch(logits, steps, align_corners):
    """The resized logits, float64 [K, H, W], by torch."""
    full = torch.from_numpy(logits)[None].double()
    for step in steps:
        full = functional.interpolate(full, (step.height, step.width), mode="bilinear", align_corners=align_corners)
        full = full[:, :, : step.keep[0], : step.keep[1]]
    return full[0].numpy()


STEPS = {
    "up": [to_size(120, 171)],
    "up_then_down": [to_size(128, 176), to_size(83, 131)],
    "up_then_up": [to_size(128, 176), to_size(333, 500)],
    "down": [to_size(11, 13)],
    "far_down": [to_size(128, 176), to_size(7, 5)],
    "cut": [Step(128, 192, (120, 171)), to_size(90, 200)],
    "one_pixel": [to_size(1, 1)],
    "a_row": [to_size(1, 300)],
}


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("steps", STEPS.values(), ids=STEPS)
@pytest.mark.parametrize("classes", [2, 5, 21])
def test_every_label_is_torchs(steps, align_corners, classes):
    """Where torch's best class leads by more than rounding, the label is that class; elsewhere it is one of the tied ones."""
    logits = regions(classes, classes, 32, 44)
    full = by_torch(logits, steps, align_corners)
    found = labels_of_logits(logits, steps, align_corners=align_corners)
    assert found.shape == full.shape[1:]
    assert found.dtype == np.uint8
    lost = full.max(0) - np.take_along_axis(full, found[None].astype(int), 0)[0]
    assert lost.max() < 3e-4  # float32's positions, as torch's own CPU kernel has them, are off by 1e-5 of a sample
    second = np.sort(full, 0)[-2]
    assert (found == full.argmax(0))[full.max(0) - second > 1e-3].all()


def test_torch_in_float32_gives_the_same_labels():
    """On logits without ties, every label of mmseg's own two resizes and argmax."""
    logits = regions(3, 11, 80, 120)
    full = torch.from_numpy(logits)[None]
    for size in ((320, 480), (333, 500)):
        full = functional.interpolate(full, size, mode="bilinear", align_corners=False)
    found = labels_of_logits(logits, [to_size(320, 480), to_size(333, 500)], align_corners=False)
    assert (found == full.argmax(1)[0].numpy()).mean() > 0.99999


def test_noise_where_every_class_may_win():
    """Where nothing can be ruled out the labels are right too."""
    logits = np.random.default_rng(0).normal(size=(30, 20, 20)).astype(np.float32)
    steps = [to_size(77, 61)]
    full = by_torch(logits, steps, False)
    found = labels_of_logits(logits, steps, align_corners=False)
    assert (found == full.argmax(0)).mean() > 0.999


def test_one_class_everywhere_is_not_computed(monkeypatch):
    """A picture of one class takes no product at all."""
    logits = np.zeros((21, 40, 40), np.float32)
    logits[7] = 5
    monkeypatch.setattr(module, "_TILE_ROWS", 16)
    assert module._possible(logits, 1, 1).sum(0).max() == 1
    assert (labels_of_logits(logits, [to_size(160, 160)], align_corners=False) == 7).all()


def test_inside_a_region_its_class_is_alone():
    """However steep the logits are: what they reach around a sample says nothing there."""
    slope = np.linspace(0, 100, 40, dtype=np.float32)[None, :] * np.ones((40, 1), np.float32)
    logits = np.stack([slope, slope + 1, slope + 2])
    assert module._possible(logits, 1, 1).sum(0).max() == 1


def test_of_equal_classes_the_first_counts():
    """As in argmax."""
    logits = np.zeros((4, 8, 8), np.float32)
    logits[1:3] = 1
    assert (labels_of_logits(logits, [to_size(31, 33)], align_corners=False) == 1).all()
    logits[0, :, :4] = 3
    found = labels_of_logits(logits, [to_size(31, 33)], align_corners=False)
    assert (np.unique(found) == [0, 1]).all()


def test_a_peak_between_two_classes_is_not_missed():
    """A class that is the largest at no sample may be the largest between two of them."""
    logits = np.array([[[10, -10]], [[-10, 10]], [[4, 4]]], np.float32)
    found = labels_of_logits(logits, [to_size(1, 101)], align_corners=True)
    assert found[0, 0] == 0
    assert found[0, 50] == 2
    assert found[0, 100] == 1


@pytest.mark.parametrize("cutoff", [0.0, -1.3, 2.0])
def test_a_binary_head(cutoff):
    """One output, and a cutoff instead of the argmax."""
    logits = regions(9, 1, 24, 30)
    steps = [to_size(96, 120), to_size(50, 131)]
    full = by_torch(logits, steps, False)[0]
    found = labels_of_logits(logits, steps, align_corners=False, cutoff=cutoff)
    far = np.abs(full - cutoff) > 1e-3
    assert (found == (full > cutoff))[far].all()
    assert 0 < found.mean() < 1


def test_more_classes_than_bytes():
    """Labels above 255 are kept."""
    logits = regions(1, 300, 10, 12, noise=1.0)
    found = labels_of_logits(logits, [to_size(40, 48)], align_corners=False)
    assert found.dtype == np.int32
    assert (found == by_torch(logits, [to_size(40, 48)], False).argmax(0)).mean() > 0.999


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
def test_values_that_are_not_finite_stay_where_they_are(value):
    """One bad logit does not change the labels of pixels that it takes no part in."""
    logits = regions(2, 5, 16, 16)
    steps = [to_size(64, 64)]
    clean = labels_of_logits(logits, steps, align_corners=False)
    logits[np.bincount(clean[8:, 8:].ravel()).argmax(), 0, 0] = value
    with np.errstate(invalid="ignore"):
        found = labels_of_logits(logits, steps, align_corners=False)
    assert (found[8:, 8:] == clean[8:, 8:]).all()


def test_no_resize_at_all():
    """Logits that have the picture's size already."""
    logits = regions(4, 6, 30, 40)
    assert (labels_of_logits(logits, [to_size(30, 40)], align_corners=False) == logits.argmax(0)).all()
