"""The verdict on the task, against mmseg's own counting and against resampling done plainly."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest

from segdeploy.artifact.verdict import TaskParity
from segdeploy.parity.task import PairedBootstrap, _corrected_interval

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
    found = bootstrap.result(NAMES, epsilon)
    assert msgspec.json.decode(msgspec.json.encode(found), type=TaskParity) == found  # numbers that a manifest can hold
    return found


def miou(pairs):
    """By mmseg's own function."""
    import torch
    from mmseg.evaluation import IoUMetric

    areas = [IoUMetric.intersect_and_union(torch.tensor(mask), torch.tensor(truth), 3, 255) for mask, truth in pairs]
    hits, union = (torch.stack([one[place] for one in areas]).sum(0) for place in (0, 1))
    return (100 * hits / union).numpy()


@pytest.mark.parametrize("nan_to_num", [None, 0, -1, 0.5])
def test_a_class_that_does_not_occur_counts_as_the_config_says(nan_to_num):
    """In the mIoU that is shown, as mmseg's metric has it; the difference and its interval are the same whatever it says."""
    import torch
    from mmseg.evaluation import IoUMetric

    samples = images(12)
    bootstraps = [PairedBootstrap(4, 255, wanted) for wanted in (nan_to_num, None)]  # nothing has the fourth class
    for bootstrap in bootstraps:
        for sample in samples:
            bootstrap.add(*sample)
    result, plain = (one.result((*NAMES, "d"), 0.5) for one in bootstraps)
    for place, shown in ((0, result.miou_reference), (1, result.miou_candidate)):
        pairs = [(torch.tensor(sample[place]), torch.tensor(sample[2])) for sample in samples]
        areas = [IoUMetric.intersect_and_union(mask, truth, 4, 255) for mask, truth in pairs]
        totals = [torch.stack([one[which] for one in areas]).sum(0) for which in range(4)]
        iou = IoUMetric.total_area_to_metrics(*totals, ["mIoU"], nan_to_num)["IoU"]
        assert shown == pytest.approx(100 * np.nanmean(iou), abs=1e-4)
    assert result.classes[3].reference == (None if nan_to_num is None else 100 * nan_to_num)
    assert (result.difference, result.low, result.high) == (plain.difference, plain.low, plain.high)
    assert (result.verdict, result.reason) == (plain.verdict, plain.reason)


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
    """Not below, below, across: and across says how many images would do."""
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


@pytest.mark.parametrize(("count", "close"), [(10, 5e-3), (40, 1e-4)])
def test_interval_is_students(count, close):
    """Of replicates spread like a normal variable it is Student's, for a spread divided by n - 1; scipy has the quantile."""
    from scipy.stats import norm, t

    drawn = norm.ppf((np.arange(400001) + 0.5) / 400001)
    wide = t.ppf(0.975, count - 1) * np.sqrt(count / (count - 1))
    assert _corrected_interval(0.0, drawn, count) == pytest.approx((-wide, wide), abs=close)


def test_ties_with_the_value_move_no_interval():
    """Half of them count as below: of symmetric replicates, most of which are the value itself, it stays symmetric."""
    drawn = np.concatenate([np.zeros(6000), np.linspace(1, 2, 2000), -np.linspace(1, 2, 2000)])
    low, high = _corrected_interval(0.0, drawn, 40)
    assert low == pytest.approx(-high, abs=1e-9)
    assert high > 1


def test_few_images():
    """Nine images with flips decide nothing."""
    assert judged(images(9, agree=0.99)).verdict == "undecided"
    assert judged(images(9, agree=0.99)).low is None


@pytest.mark.parametrize(("count", "share"), [(2, "any of the others"), (9, "up to 0.33 "), (60, "up to 0.05 ")])
def test_images_without_a_flip(count, share):
    """They pass, and no interval of zero width is claimed: what they say of other pictures is said in words."""
    result = judged(images(count, agree=1.0))
    assert result.verdict == "passed"
    assert (result.difference, result.low, result.high) == (0, None, None)
    assert "rule of three" in result.reason
    assert share in result.reason


def test_a_stray_pixel_of_an_absent_class():
    """mmseg's mIoU falls by a quarter of itself, and is shown; the difference and the verdict take it for one pixel."""
    samples = images(40, wrong_reference=0.05, agree=1.0)
    samples = [(theirs % 2, ours % 2, np.where(truth == 255, 255, truth % 2)) for theirs, ours, truth in samples]
    samples[0][1][10, 10] = 2  # class "c" occurs in no label
    result = judged(samples)
    assert result.miou_candidate < 0.7 * result.miou_reference
    assert -0.05 < result.difference < 0
    assert -0.2 < result.low <= result.difference <= result.high <= 0
    assert result.verdict == "passed"


def test_a_stray_pixel_of_an_absent_class_in_the_reference():
    """The other way round nothing is gained: the candidate is not better for it."""
    samples = images(40, wrong_reference=0.05, agree=1.0)
    samples = [(theirs % 2, ours % 2, np.where(truth == 255, 255, truth % 2)) for theirs, ours, truth in samples]
    samples[0][0][10, 10] = 2
    assert 0 <= judged(samples).difference < 0.05


def test_a_better_model_passes():
    """Surely better by more than epsilon: nothing is lost by it."""
    result = judged(images(40, wrong_reference=0.5, wrong_candidate=0.1))
    assert result.low > 0.5
    assert (result.verdict, result.images_needed) == ("passed", None)
    assert "better" in result.reason


def rare_class(count, occurs, lost, pixels=4):
    """Class 2 occurs in ``occurs`` of ``count`` images; the reference finds it, in ``lost`` of them the candidate does not."""
    found = []
    for index in range(count):
        truth = np.zeros((20, 30), np.uint8)
        truth[10:] = 1
        if index < occurs:
            truth[0, :pixels] = 2
        reference, candidate = truth.copy(), truth.copy()
        candidate[5, index % 30] = 1  # and some images differ otherwise
        if index < lost:
            candidate[truth == 2] = 0
        found.append((reference, candidate, truth))
    return found


def test_a_lost_class_fails_whatever_the_mean():
    """A class that the candidate never finds: no epsilon on the mean covers it."""
    result = judged(rare_class(40, occurs=12, lost=12), epsilon=40)
    assert result.verdict == "failed"
    assert "c (IoU 100.00 -> 0.00 in 12 images)" in result.reason
    assert [one.lost for one in result.classes] == ["no", "no", "yes"]
    assert result.classes[2].low == result.classes[2].high == -100
    assert judged(rare_class(40, occurs=12, lost=3), epsilon=40).verdict == "passed"


def test_a_class_lost_in_one_image_is_not_sure():
    """One image, or one stray pixel, decides nothing about a class; it does not pass either."""
    result = judged(rare_class(40, occurs=1, lost=1), epsilon=40)
    assert result.classes[2].lost == "perhaps"
    assert result.verdict == "undecided"
    assert "too few images" in result.reason


def test_a_class_that_the_reference_never_knew():
    """A stray hit of the reference is no class that can be lost."""
    samples = [(theirs, ours, np.where(truth == 2, 2, truth)) for theirs, ours, truth in rare_class(40, 20, 20, pixels=20)]
    for index, (theirs, _, _) in enumerate(samples):
        theirs[0] = np.where(theirs[0] == 2, 0, theirs[0])
        theirs[0, 0] = 2 if index < 2 else theirs[0, 0]
    result = judged(samples, epsilon=2)
    assert 0 < result.classes[2].reference < 2
    assert result.classes[2].candidate == 0
    assert result.classes[2].lost == "no"


def weak_class(wrong, kept, occurs=12, had=0.5):
    """Class 2 in ``occurs`` of 40 images: the reference finds the share ``had`` of it, the candidate ``kept`` of that.

    Of the other two classes the reference has the share ``wrong`` wrong, and the candidate a tenth of it.
    """
    random = np.random.default_rng(3)
    found = []
    for index in range(40):
        truth = random.integers(0, 2, (20, 30)).astype(np.uint8)
        truth[0] = 2 if index < occurs else truth[0]
        spoiled = random.random(truth.shape)
        masks = [np.where(spoiled < share * random.uniform(0.5, 1.5), 1 - truth % 2, truth) for share in (wrong, wrong / 10)]
        for mask, share in zip(masks, (had, had * kept), strict=True):
            mask[0] = np.where(truth[0] == 2, np.where(np.arange(30) < round(30 * share), 2, 0), mask[0])
        found.append((masks[0].astype(np.uint8), masks[1].astype(np.uint8), truth))
    return found


def test_nothing_is_lost_of_a_class_that_the_reference_does_not_find():
    """Stray hits, of which the candidate has fewer: IoU 0.6 to 0.1, as of CamVid's bicyclist, in every image."""
    samples = weak_class(wrong=0.3, kept=1.0, occurs=40, had=0.0)
    for index, (theirs, ours, _) in enumerate(samples):
        theirs[0, 0] = 2 if index % 5 == 0 else theirs[0, 0]
        ours[0, 0] = 2 if index == 0 else ours[0, 0]
    result = judged(samples, epsilon=0.1)
    assert 0 < 3 * result.classes[2].candidate < result.classes[2].reference < 1
    assert [one.lost for one in result.classes] == ["no", "no", "no"]
    assert result.verdict == "passed"


@pytest.mark.parametrize(("kept", "verdict"), [(0.4, "passed"), (0.0, "undecided")])
def test_a_better_model_with_a_class_perhaps_lost(kept, verdict):
    """The doubt is told and does not stop a surely better model, unless all but nothing of the class is left."""
    result = judged(weak_class(wrong=0.9, kept=kept, occurs=3), epsilon=0.1)
    assert result.low > 0
    assert result.classes[2].lost == "perhaps"
    assert result.verdict == verdict
    assert "c (IoU " in result.reason
    assert (result.images_needed is None) == (verdict == "passed")


def test_a_class_perhaps_lost_stops_a_model_that_is_no_better():
    """Its mean is within epsilon; half of a rare class may be gone: not passed, and so many images would show it."""
    result = judged(weak_class(wrong=0.0, kept=0.4, occurs=3), epsilon=40)
    assert result.low < 0
    assert (result.classes[2].lost, result.verdict) == ("perhaps", "undecided")
    random, with_it, without = np.random.default_rng(0), *np.split(np.arange(40), [3])
    shown = 0
    for _ in range(30):
        many = random.binomial(result.images_needed, 3 / 40)
        places = [*random.choice(with_it, many), *random.choice(without, result.images_needed - many)]
        samples = weak_class(wrong=0.0, kept=0.4, occurs=3)
        shown += judged([samples[place] for place in places], epsilon=40).verdict == "failed"
    assert 0.6 < shown / 30 < 0.97


def test_a_surely_better_model_with_a_class_surely_lost():
    """Fails whatever the mean."""
    result = judged(weak_class(wrong=0.9, kept=0.4, occurs=12), epsilon=0.1)
    assert result.low > 0
    assert (result.classes[2].lost, result.verdict) == ("yes", "failed")


def test_power():
    """The number of images that is asked for decides in about 80 % of the samples of that size, of equal models."""
    first = judged(images(60, agree=0.8, seed=3), epsilon=0.2)
    assert first.verdict == "undecided"
    assert "80%" in first.reason
    runs = [judged(images(first.images_needed, agree=0.8, seed=100 + seed), epsilon=0.2).verdict for seed in range(40)]
    assert "failed" not in runs
    assert 0.65 < runs.count("passed") / len(runs) < 0.95


def test_a_difference_as_large_as_epsilon():
    """No number of images shows a model that is worse by just epsilon to be inside: none is named."""
    samples = images(60, wrong_candidate=0.3, agree=0.5, seed=7)
    result = judged(samples, epsilon=-judged(samples).difference)
    assert (result.verdict, result.images_needed) == ("undecided", None)
    assert "no number of images" in result.reason


def test_coverage():
    """The interval holds the true difference about as often as it promises, with few images too, and errs on either side."""
    from importlib.util import module_from_spec, spec_from_file_location

    spec = spec_from_file_location("interval_coverage", Path(__file__).with_name("interval_coverage.py"))
    simulation = module_from_spec(spec)
    spec.loader.exec_module(simulation)
    holds, below, above = simulation.coverage(20, 150)
    assert 0.91 <= holds <= 0.99
    assert max(below, above) < 0.07


def test_void_alone():
    """Images without a labelled pixel decide nothing, and give no NaN."""
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
