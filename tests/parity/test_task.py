"""The verdict on the task, against mmseg's own counting and against resampling done plainly."""

from __future__ import annotations

import numpy as np
import pytest

from segdeploy.parity.task import PairedBootstrap

NAMES = ("a", "b", "c")


def images(count, wrong_reference=0.2, wrong_candidate=0.2, agree=0.0, seed=0):
    """(reference, candidate, truth) label maps; the share of wrong pixels varies from image to image."""
    random = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        truth = random.integers(0, 3, (20, 30)).astype(np.uint8)
        hardness = random.uniform(0, 2)
        masks = []
        for wrong in (wrong_reference, wrong_candidate):
            spoiled = random.random(truth.shape) < wrong * hardness
            masks.append(np.where(spoiled, (truth + 1) % 3, truth).astype(np.uint8))
        if agree:
            masks[1] = np.where(random.random(truth.shape) < agree, masks[0], masks[1])
        truth[:2] = 255
        found.append((masks[0], masks[1], truth))
    return found


def judged(samples, epsilon=0.5):
    bootstrap = PairedBootstrap(3, 255)
    for sample in samples:
        bootstrap.add(*sample)
    return bootstrap.result(NAMES, epsilon)


def miou(pairs):
    """By mmseg's own function."""
    import torch
    from mmseg.evaluation import IoUMetric

    areas = [IoUMetric.intersect_and_union(torch.tensor(mask), torch.tensor(truth), 3, 255) for mask, truth in pairs]
    hits, union = (torch.stack([one[place] for one in areas]).sum(0) for place in (0, 1))
    return (100 * hits / union).numpy()


def test_miou_is_mmsegs():
    """Both models' mIoU and their classes'."""
    samples = images(12)
    result = judged(samples)
    theirs, ours = (miou([(sample[place], sample[2]) for sample in samples]) for place in (0, 1))
    assert result.miou_reference == pytest.approx(theirs.mean(), abs=1e-4)
    assert result.miou_candidate == pytest.approx(ours.mean(), abs=1e-4)
    assert [one.reference for one in result.classes] == pytest.approx(list(theirs), abs=1e-4)
    assert [one.candidate for one in result.classes] == pytest.approx(list(ours), abs=1e-4)


def test_interval_is_that_of_resampling():
    """Drawing images with replacement, one replicate after the other, gives the same interval."""
    samples = images(40, wrong_candidate=0.25)
    result = judged(samples)
    random = np.random.default_rng(5)
    differences = []
    for _ in range(300):
        drawn = [samples[index] for index in random.integers(0, len(samples), len(samples))]
        theirs, ours = (miou([(sample[place], sample[2]) for sample in drawn]).mean() for place in (0, 1))
        differences.append(ours - theirs)
    width = np.ptp(np.quantile(differences, [0.025, 0.975]))
    assert (result.low, result.high) == pytest.approx(tuple(np.quantile(differences, [0.025, 0.975])), abs=0.25 * width)


def test_verdicts():
    """Inside, outside, across: and across says how many images would do."""
    assert judged(images(40, agree=1.0)).verdict == "passed"
    assert judged(images(40, wrong_candidate=0.5)).verdict == "failed"
    across = judged(images(12, agree=0.8), epsilon=0.2)
    assert across.verdict == "undecided"
    assert across.images_needed > 12
    assert f"{across.images_needed:,} images" in across.reason


def test_number_of_images_is_about_right():
    """With four times the images asked for, equal models are found equal; with a quarter they are not."""
    few = judged(images(15, agree=0.8, seed=3), epsilon=0.3)
    assert few.verdict == "undecided"
    assert judged(images(4 * few.images_needed, agree=0.8, seed=4), epsilon=0.3).verdict == "passed"
    assert judged(images(few.images_needed // 4, agree=0.8, seed=4), epsilon=0.3).verdict == "undecided"


def test_few_images():
    """Nine images with flips decide nothing; nine without a single flip do."""
    assert judged(images(9, agree=0.99)).verdict == "undecided"
    assert judged(images(9, agree=0.99)).low is None
    assert judged(images(9, agree=1.0)).verdict == "passed"


def test_void_alone():
    """Images without a labelled pixel decide nothing, and give no NaN."""
    import msgspec

    void = [(mask, mask, np.full_like(truth, 255)) for mask, _, truth in images(12)]
    result = judged(void)
    assert (result.verdict, result.miou_reference) == ("undecided", None)
    assert b"NaN" not in msgspec.json.encode(result)


def test_order_and_batches_do_not_matter_for_memory():
    """What is kept is as large after many images as after one."""
    bootstrap = PairedBootstrap(3, 255)
    sizes = set()
    for sample in images(5):
        bootstrap.add(*sample)
        sizes.add(sum(value.nbytes for value in vars(bootstrap).values() if isinstance(value, np.ndarray)))
    assert len(sizes) == 1
