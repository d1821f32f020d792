"""Figures and verdicts of one shape, against numpy and torch on the same arrays."""

import msgspec
import numpy as np
import pytest

from segdeploy.artifact.manifest import Bounds
from segdeploy.artifact.verdict import ShapeParity, Tolerance, worst
from segdeploy.parity.comparison import Outputs, ShapeComparison

SHAPE = (2, 32, 48)
TOLERANCE = Tolerance(logits_max_abs=1e-4, mask_agreement=0.9999, miou_points=0.1)


def masks(logits):
    """The masks that belong to logits, by torch."""
    import torch

    full = torch.nn.functional.interpolate(torch.tensor(logits), SHAPE[1:], mode="bilinear", align_corners=False)
    return full.argmax(1).to(torch.uint8).numpy()


@pytest.fixture
def four(make_manifest):
    """A manifest of four classes."""
    return make_manifest(classes=("a", "b", "c", "d"))


@pytest.fixture
def outputs():
    logits = np.random.default_rng(0).normal(0, 3, (SHAPE[0], 4, 8, 12)).astype(np.float32)
    return Outputs(masks(logits), logits)


@pytest.fixture
def compare(four):
    """Compares one batch."""

    def run(reference, candidate, tolerance=TOLERANCE):
        comparison = ShapeComparison(SHAPE, tolerance, four)
        comparison.add(reference, candidate)
        return comparison.result()

    return run


def test_equal_outputs_pass(outputs, compare):
    """No difference: all figures are zero."""
    result = compare(outputs, outputs)
    assert result.verdict == "passed"
    assert (result.logits.max_abs, result.logits.mean_abs, result.masks.differ, result.masks.margin_max) == (0, 0, 0, 0)
    assert result.masks.agreement == 1
    assert result.images == 2
    assert result.logits.scale == pytest.approx(float(np.abs(outputs.logits).max()))


def test_rounding_passes(outputs, compare):
    """Noise of float32's rounding, with the flips that it causes itself, is no fault."""
    noise = np.random.default_rng(1).normal(0, 1e-6, outputs.logits.shape).astype(np.float32)
    logits = outputs.logits + noise
    assert compare(outputs, Outputs(masks(logits), logits)).verdict == "passed"


def test_the_figures_are_the_differences(outputs, compare):
    """Largest, mean, share and count are what numpy says of the same arrays."""
    noise = np.random.default_rng(1).normal(0, 1, outputs.logits.shape).astype(np.float32)
    other = Outputs(masks(outputs.logits + noise), outputs.logits + noise)
    result = compare(outputs, other)
    error = np.abs((outputs.logits + noise).astype(np.float64) - outputs.logits)
    assert result.verdict == "failed"
    assert result.logits.max_abs == pytest.approx(error.max())
    assert result.logits.mean_abs == pytest.approx(error.mean())
    assert result.masks.differ == int((outputs.mask != other.mask).sum())
    assert result.masks.agreement == pytest.approx(float((outputs.mask == other.mask).mean()))


def test_one_logit_out_of_tolerance_fails(outputs, compare):
    """A single logit is enough, the tolerance being relative to the largest."""
    scale = float(np.abs(outputs.logits).max())
    for factor, verdict in ((0.9, "passed"), (1.2, "failed")):
        logits = outputs.logits.copy()
        logits[1, 2, 3, 4] += factor * 1e-4 * scale
        assert compare(outputs, Outputs(outputs.mask, logits)).verdict == verdict


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_nan_and_infinity_fail(outputs, compare, value):
    """A logit that is no number is an error beyond all bounds, even where the mask is right; the verdict can be read again."""
    logits = outputs.logits.copy()
    logits[0, 0, 0, 0] = value
    result = compare(outputs, Outputs(outputs.mask, logits))
    assert result.verdict == "failed"
    assert result.logits.max_abs > 1e38
    assert msgspec.json.decode(msgspec.json.encode(result), type=ShapeParity) == result


@pytest.mark.filterwarnings("ignore:invalid value")
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_nan_in_the_reference_fails(outputs, compare, value):
    """A reference that is no number proves nothing: the verdict is no pass, even where the candidate has the same."""
    logits = outputs.logits.copy()
    logits[0, 0, 0, 0] = value
    broken = Outputs(outputs.mask, logits)
    for candidate in (broken, outputs, Outputs((outputs.mask + 1) % 4, logits)):
        result = compare(broken, candidate)
        assert result.verdict == "failed"
        assert msgspec.json.decode(msgspec.json.encode(result), type=ShapeParity) == result


def test_one_confident_pixel_that_flips_fails(four):
    """Equal logits cannot explain a flip where the reference was sure: one pixel in 65,536 is enough."""
    import torch

    logits = np.random.default_rng(0).normal(0, 3, (1, 4, 16, 16)).astype(np.float32)
    full = torch.nn.functional.interpolate(torch.tensor(logits), (256, 256), mode="bilinear")[0]
    mask = full.argmax(0)[None].to(torch.uint8).numpy()
    top = full.topk(2, dim=0).values
    margin = top[0] - top[1]
    for pick, verdict in ((margin.argmax(), "failed"), (margin.argmin(), "passed")):
        y, x = np.unravel_index(int(pick), margin.shape)
        flipped = mask.copy()
        flipped[0, y, x] = full[:, y, x].topk(2).indices[1]
        comparison = ShapeComparison((1, 256, 256), TOLERANCE, four)
        comparison.add(Outputs(mask, logits), Outputs(flipped, logits))
        result = comparison.result()
        assert result.verdict == verdict
        assert result.masks.differ == 1
        assert result.masks.agreement > TOLERANCE.mask_agreement
        assert result.masks.margin_max == pytest.approx(float(margin[y, x]), abs=1e-5)


def test_a_third_class_at_a_border_fails(four):
    """Where two classes are all but equal either may win, but not a third one: one pixel is enough."""
    logits = np.zeros((1, 4, 32, 48), np.float32)
    logits[0, 0], logits[0, 1], logits[0, 2] = 5.0, 5.0 - 1e-6, -5.0
    mask = np.zeros((1, *SHAPE[1:]), np.uint8)
    for label, verdict in ((1, "passed"), (2, "failed"), (7, "failed")):
        flipped = mask.copy()
        flipped[0, 3, 4] = label
        comparison = ShapeComparison((1, *SHAPE[1:]), TOLERANCE, four)
        comparison.add(Outputs(mask, logits), Outputs(flipped, logits))
        assert comparison.result().verdict == verdict


def test_a_picture_of_one_colour_that_is_a_tie(four):
    """Two classes that are equal everywhere: which of them wins is chance all over the picture, and no defect; a third is."""
    logits = np.zeros((1, 4, 32, 48), np.float32)
    logits[0, 1:3] = 3.0
    mask = np.ones((1, *SHAPE[1:]), np.uint8)
    for label, verdict in ((2, "passed"), (0, "failed")):
        comparison = ShapeComparison((1, *SHAPE[1:]), TOLERANCE, four)
        comparison.add(Outputs(mask, logits), Outputs(np.full_like(mask, label), logits))
        result = comparison.result()
        assert result.verdict == verdict
        assert result.masks.differ == mask.size
        assert result.masks.agreement == (1 if label == 2 else 0)


def test_a_binary_head_that_is_a_tie(make_manifest):
    """At its very cutoff a pixel may go either way."""
    manifest = make_manifest(classes=("ground", "thing"))
    post = msgspec.structs.replace(manifest.postprocess, reduce="threshold", threshold=0.5)
    manifest = msgspec.structs.replace(manifest, postprocess=post)
    mask = np.zeros((1, 8, 8), np.uint8)
    for logit, verdict in ((0.0, "passed"), (1.0, "failed")):
        comparison = ShapeComparison((1, 8, 8), TOLERANCE, manifest)
        logits = np.full((1, 1, 8, 8), logit, np.float32)
        comparison.add(Outputs(mask, logits), Outputs(mask + np.uint8(1), logits))
        assert comparison.result().verdict == verdict


def test_too_many_flips_fail(compare):
    """Below the least agreement the verdict is no, though the error of the logits explains each flip."""
    logits = np.zeros((SHAPE[0], 4, 8, 12), np.float32)
    logits[:, 0] = 1.5e-4
    moved = logits.copy()
    moved[:, 0] -= 9e-5
    mask = np.zeros(SHAPE, np.uint8)
    result = compare(Outputs(mask, logits), Outputs(mask + np.uint8(1), moved))
    assert (result.verdict, result.masks.firm, result.masks.ties) == ("failed", 0, 0)
    assert "labels agree" in result.reason


@pytest.mark.parametrize(
    ("side", "share", "verdict"), [(32, 0.07, "failed"), (16, 0.07, "passed"), (16, 0.12, "failed"), (4, 0.3, "failed")]
)
def test_small_pictures_are_mostly_borders(make_manifest, side, share, verdict):
    """At half the best side twice as many labels may differ, and never more than four times."""
    manifest = make_manifest(classes=("a", "b", "c", "d"))
    axes = (1, Bounds(min=4, opt=32, max=64), Bounds(min=4, opt=32, max=64), 3)
    manifest = msgspec.structs.replace(manifest, input=msgspec.structs.replace(manifest.input, shape=axes))
    allowed = Tolerance(logits_max_abs=0.5, mask_agreement=0.95, miou_points=1)
    logits = np.zeros((1, 4, 4, 4), np.float32)
    logits[:, 0] = 0.4
    moved = logits.copy()
    moved[:, 0] -= 0.3
    mask = np.zeros((1, side, side), np.uint8)
    flipped = mask.copy()
    flipped.reshape(-1)[: round(share * mask.size)] = 1
    comparison = ShapeComparison((1, side, side), allowed, manifest)
    comparison.add(Outputs(mask, logits), Outputs(flipped, moved))
    assert comparison.result().verdict == verdict


def test_batches_add_up(outputs, four):
    """Two batches give the worst of both and the mean over both."""
    logits = outputs.logits + np.float32(0.5)
    comparison = ShapeComparison(SHAPE, TOLERANCE, four)
    comparison.add(outputs, outputs)
    comparison.add(outputs, Outputs(outputs.mask, logits))
    result = comparison.result()
    assert result.images == 4
    assert result.logits.max_abs == pytest.approx(0.5, rel=1e-5)
    assert result.logits.mean_abs == pytest.approx(0.25, rel=1e-5)


@pytest.mark.parametrize(
    ("verdicts", "expected"),
    [
        ([], "skipped"),
        (["skipped"], "skipped"),
        (["passed", "passed"], "passed"),
        (["passed", "skipped"], "passed"),
        (["skipped", "undecided", "passed"], "undecided"),
        (["undecided", "failed", "passed"], "failed"),
    ],
)
def test_the_worst_verdict_counts(verdicts, expected):
    """What was skipped decides nothing: skipped alone is no pass, and takes nothing from what was found."""
    assert worst(verdicts) == expected
