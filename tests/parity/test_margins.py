"""By how much a label was held, against the definitions written out; and labels that users get, judged by it."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from segdeploy.artifact.manifest import Pad
from segdeploy.artifact.verdict import Tolerance
from segdeploy.parity.comparison import (
    LabelComparison,
    Outputs,
    ShapeComparison,
    explained,
    full_logits,
    leads,
    margins,
    tie_width,
)
from segdeploy.parity.logits import LARGEST

TOLERANCE = Tolerance(logits_max_abs=1e-4, mask_agreement=0.9, miou_points=0.1)


def test_the_lead_over_the_candidates_label():
    """The best logit less that of the label given, pixel by pixel; a label that is no class is infinitely wrong."""
    logits = np.random.default_rng(0).normal(0, 3, (4, 9)).astype(np.float32)
    labels = np.array([0, 1, 2, 3, 0, 3, 4, 255, -1])
    expected = [max(column) - column[label] for column, label in zip(logits.T[:6], labels, strict=False)]
    np.testing.assert_allclose(leads(logits, labels, None), [*expected, LARGEST, LARGEST, LARGEST], rtol=1e-6)


def test_the_lead_of_a_binary_head():
    """The distance from its cutoff; it has the labels 0 and 1."""
    logits = np.array([[0.5, -2.0, 3.0, 1.0, 1.0]], np.float32)
    np.testing.assert_allclose(leads(logits, np.array([0, 1, 1, 2, 3]), 0.4), [0.1, 2.4, 2.6, LARGEST, LARGEST], rtol=1e-5)


def test_the_margin_of_a_label():
    """The best logit less the second; of a binary head the distance from its cutoff; of one class there is no other."""
    logits = np.random.default_rng(0).normal(0, 3, (4, 5, 6)).astype(np.float32)
    ordered = np.sort(logits, axis=0)
    np.testing.assert_array_equal(margins(logits, None), ordered[3] - ordered[2])
    np.testing.assert_allclose(margins(logits[:1], -0.3), np.abs(logits[0] + 0.3), rtol=1e-6)
    np.testing.assert_array_equal(margins(logits[:1], None), np.full((5, 6), LARGEST))


@pytest.mark.parametrize(
    ("error", "largest", "expected"),
    [(0.0, 0.5, 0.01), (0.0, 1.5, 0.015), (0.5, 1.5, 0.5), (0.0, -4.0, 0.04)],
)
def test_what_explains_a_flip(error, largest, expected):
    """The error that was measured, or the rounding of the largest logit, at least of 1; what is not finite is no logit."""
    logits = np.array([0.1, largest, np.nan, np.inf, -np.inf], np.float32)
    assert explained(error, logits, 0.01) == pytest.approx(expected)


def test_a_tie_is_what_float32_rounds():
    """A hundred thousandth of the largest logit."""
    assert tie_width(np.array([-20.0, 3.0])) == pytest.approx(2e-4)
    assert tie_width(np.array([0.1, np.nan])) == pytest.approx(1e-5)


@pytest.mark.parametrize("align", [True, False])
def test_logits_at_full_size_are_torchs(make_manifest, align):
    """Upsampled to the padded size, and what was padded cut off again."""
    import torch

    base = make_manifest()
    manifest = msgspec.structs.replace(
        base,
        preprocess=msgspec.structs.replace(base.preprocess, pad=Pad(divisor=16)),
        postprocess=msgspec.structs.replace(base.postprocess, align_corners=align),
    )
    logits = np.random.default_rng(0).normal(0, 3, (3, 4, 6)).astype(np.float32)
    expected = torch.nn.functional.interpolate(torch.tensor(logits)[None], (32, 48), mode="bilinear", align_corners=align)
    np.testing.assert_allclose(full_logits(logits, (30, 41), manifest), expected[0, :, :30, :41], atol=1e-5)


def test_how_bad_an_image_is(make_manifest):
    """The share of its pixels that differ, and its largest logit error up to 1: each image for itself."""
    logits = np.zeros((3, 3, 4, 4), np.float32)
    logits[:, 1] = 2.0
    other, mask = logits.copy(), np.ones((3, 8, 8), np.uint8)
    other[1, 0, 0, 0] += 0.25
    other[2, 0, 0, 0] += 7.0
    flipped = mask.copy()
    flipped[1:, 0, :8] = 0
    comparison = ShapeComparison((3, 8, 8), TOLERANCE, make_manifest())
    assert comparison.add(Outputs(mask, logits), Outputs(flipped, other)) == pytest.approx([0.0, 0.375, 1.125])
    result = comparison.result()
    assert (result.shape, result.images) == ((3, 8, 8), 3)
    assert result.reason.count("; ") == 1
    assert "XX" not in result.reason


def test_at_the_limit_is_within_it(make_manifest):
    """A logit that is off by just what is allowed, and a share of labels that is just what is asked for, pass."""
    allowed = Tolerance(logits_max_abs=0.25, mask_agreement=0.5, miou_points=1)
    for largest, error, verdict in (
        (1.0, 0.25, "passed"),
        (1.0, 0.3125, "failed"),
        (4.0, 1.0, "passed"),
        (0.5, 0.25, "passed"),
    ):
        logits = np.full((1, 3, 8, 8), 0.0, np.float32)
        logits[:, 1] = largest
        moved = logits.copy()
        moved[:, 1] -= np.float32(error)
        mask = np.ones((1, 8, 8), np.uint8)
        comparison = ShapeComparison(None, allowed, make_manifest())
        comparison.add(Outputs(mask, logits), Outputs(mask, moved))
        assert comparison.result().verdict == verdict
    half = np.ones((1, 8, 8), np.uint8)
    half[:, :4] = 0
    logits = np.zeros((1, 3, 8, 8), np.float32)
    logits[:, 1] = 0.25
    comparison = ShapeComparison(None, allowed, make_manifest())
    comparison.add(Outputs(np.ones_like(half), logits), Outputs(half, logits + np.float32(0.25)))
    assert comparison.result().verdict == "passed"


@pytest.fixture
def label(make_manifest):
    """Judges labels of 20x20 pixels, of logits in which class 1 leads by 0.5: (pixels that become 0, error) -> result."""

    def judge(flips, error, precision="fp32", label=0):
        logits = np.zeros((3, 10, 10), np.float32)
        logits[1] = 0.5
        theirs = np.ones((20, 20), np.uint8)
        ours = theirs.copy()
        ours.reshape(-1)[:flips] = label
        comparison = LabelComparison(TOLERANCE, make_manifest(precision=precision))
        assert comparison.add(theirs, theirs, lambda: pytest.fail("asked for where nothing differs"), 0.0) == 0
        share = comparison.add(theirs, ours, lambda: logits, error)
        assert share == pytest.approx(flips / 400)
        return comparison.result()

    return judge


@pytest.mark.parametrize(
    ("flips", "error", "verdict", "firm"),
    [(1, 0.0, "failed", 1), (1, 0.3, "passed", 0), (79, 0.3, "passed", 0), (81, 0.3, "failed", 0), (1, None, "failed", 1)],
)
def test_labels_that_users_get(label, flips, error, verdict, firm):
    """A flip is firm where the error of the logits does not explain it; and no more than a tenth may differ."""
    result = label(flips, error)
    assert (result.verdict, result.labels.firm, result.labels.differ, result.images) == (verdict, firm, flips, 2)
    assert result.labels.margin_max == pytest.approx(0.5)
    assert result.labels.ties == 0
    assert bool(result.reason) == (verdict == "failed")


def test_labels_of_a_lower_precision(label):
    """The rounding of its resizes explains no lead of 0.5; a label that is no class is firm whatever the error."""
    assert label(1, 0.0, "int8").labels.firm == 1
    assert label(1, 0.3, label=7).labels.firm == 1
