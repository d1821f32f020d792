"""How often the interval of the difference of mIoU holds the true difference, by simulation.

    python tests/parity/interval_coverage.py

Images are drawn from a made population: some are harder than others, and one of the classes occurs in few of them. The true
difference is that of a hundred thousand images.
"""

from __future__ import annotations

import numpy as np

from segdeploy.parity.task import PairedBootstrap

CLASSES = 4
PIXELS = 96
RARE = 0.25  # the share of the images in which the last class occurs


def population(random, count, lost=0.06):
    """(reference, candidate, truth) of ``count`` images, uint8 [count, PIXELS]; the candidate is the worse one."""
    truth = random.integers(0, CLASSES - 1, (count, PIXELS))
    rare = random.random(count) < RARE
    truth[:, : PIXELS // 6] = np.where(rare[:, None], CLASSES - 1, truth[:, : PIXELS // 6])
    wrong = random.beta(1.5, 6, (count, 1))  # some images are hard
    other = (truth + random.integers(1, CLASSES, truth.shape)) % CLASSES
    reference = np.where(random.random(truth.shape) < wrong, other, truth)
    flips = random.random(truth.shape) < lost * random.gamma(0.5, 2, (count, 1))  # and some differ more than others
    candidate = np.where(flips, (reference + 1) % CLASSES, reference)
    return reference.astype(np.uint8), candidate.astype(np.uint8), truth.astype(np.uint8)


def true_difference(random):
    """In points of mIoU."""
    reference, candidate, truth = population(random, 100_000)
    means = []
    for labels in (reference, candidate):
        hits = np.bincount(truth[labels == truth], minlength=CLASSES)
        areas = np.bincount(truth.ravel(), minlength=CLASSES) + np.bincount(labels.ravel(), minlength=CLASSES)
        means.append(100 * (hits / (areas - hits)).mean())
    return means[1] - means[0]


def coverage(images, runs, seed=0):
    """The shares of ``runs`` samples of ``images`` images whose interval lies around, below and above the truth."""
    random = np.random.default_rng(seed)
    truth = true_difference(random)
    below = above = 0
    for run in range(runs):
        bootstrap = PairedBootstrap(CLASSES, 255, seed=run)
        for sample in zip(*population(random, images), strict=True):
            bootstrap.add(*sample)
        result = bootstrap.result(tuple("abcd"), 1.0)
        below += result.high < truth
        above += result.low > truth
    return 1 - (below + above) / runs, below / runs, above / runs


if __name__ == "__main__":
    print("images  holds it  too low  too high   (400 samples each; 95 % are promised)")  # noqa: T201  a script
    for count in (10, 20, 50, 100):
        holds, low, high = coverage(count, 400)
        print(f"{count:6d}  {100 * holds:6.1f} %  {100 * low:4.1f} %   {100 * high:4.1f} %")  # noqa: T201  likewise
