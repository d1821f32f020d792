"""Which verdict of a history counts."""

import msgspec
import pytest

from segdeploy.artifact.history import counting
from segdeploy.artifact.verdict import FlipFigures, LabelParity, LogitFigures, Parity, ShapeParity, Tolerance

FILES = ("a" * 64,)
FLIPS = FlipFigures(pixels=1, differ=0, agreement=1.0, band=0, interior=0, firm=0, margin_max=0.0, classes=())

FIGURES = LogitFigures(
    max_abs=0, mean_abs=0, p99_abs=0, scale=1, relative_l2=0, cosine=1, psnr_db=None, decades=(), class_max_abs=(), not_finite=0
)


def verdict(word, *, images=10, device="cpu", files=FILES, noise=False, overridden=(), pictures="", shapes=()):
    return Parity(
        reference="r",
        inputs="i",
        device="none" if word == "skipped" else device,
        tolerance=Tolerance(logits_max_abs=1e-4, mask_agreement=1.0, miou_points=0.1, overridden=overridden),
        shapes=tuple(ShapeParity(shape, images, FIGURES, FLIPS, word) for shape in shapes),
        labels=None if word == "skipped" else LabelParity(images=images, labels=FLIPS, verdict="passed"),
        verdict=word,
        files=files,
        noise=noise,
        pictures=tuple(pictures),
    )


PASSED, FAILED, SKIPPED = verdict("passed"), verdict("failed"), verdict("skipped")


@pytest.mark.parametrize(
    ("history", "counts"),
    [
        ([], None),
        ([SKIPPED], 0),
        ([PASSED, SKIPPED], 0),
        ([SKIPPED, PASSED, SKIPPED], 1),
        ([FAILED, SKIPPED], 0),
        ([PASSED, FAILED], 1),
        ([FAILED, PASSED], 1),
        ([FAILED, verdict("passed", images=9)], 0),
        ([FAILED, verdict("passed", images=11)], 1),
        ([verdict("passed", images=50), verdict("failed", images=1)], 1),
        ([verdict("passed", images=50), verdict("undecided", images=5)], 0),
        ([verdict("passed", images=5), verdict("undecided", images=50)], 1),
        ([FAILED, verdict("passed", images=99, overridden=("mask_agreement",))], 0),
        ([FAILED, verdict("passed", images=99, noise=True)], 0),
        ([verdict("failed", images=99, noise=True), PASSED], 1),
        ([verdict("failed", images=99, overridden=("mask_agreement",)), PASSED], 1),
        ([PASSED, verdict("failed", noise=True)], 1),
        ([PASSED, verdict("passed", images=99, noise=True)], 0),
        ([verdict("passed", noise=True), verdict("passed", overridden=("miou_points",))], 1),
        ([FAILED, verdict("undecided", images=99)], 0),
        ([verdict("undecided"), FAILED, PASSED], 2),
        ([verdict("failed", images=99), verdict("failed", images=5), PASSED], 0),
        ([verdict("failed", noise=True), verdict("passed", noise=True)], 1),
    ],
)
def test_what_counts(history, counts):
    """A failure counts at once; nothing weaker takes it back, or a better pass; a skip replaces nothing."""
    assert counting(history, FILES) is (None if counts is None else history[counts])


@pytest.mark.parametrize(
    ("history", "counts"),
    [
        ([verdict("failed", pictures="ab"), verdict("passed", pictures="ba")], 1),
        ([verdict("failed", pictures="ab"), verdict("passed", pictures="abc", images=11)], 1),
        ([verdict("failed", pictures="ab"), verdict("passed", pictures="bc")], 0),
        ([verdict("failed", pictures="ab"), verdict("passed", pictures="cdef", images=99)], 0),
        ([verdict("failed", pictures="ab"), verdict("passed", images=99)], 0),
        ([verdict("failed", pictures="a"), verdict("failed", pictures="b"), verdict("passed", pictures="b")], 0),
        ([verdict("failed", pictures="a"), verdict("failed", pictures="b"), verdict("passed", pictures="a")], 1),
        ([verdict("failed", pictures="a"), verdict("passed", pictures="b"), verdict("passed", pictures="a")], 2),
        ([verdict("failed", pictures="xy", noise=True), verdict("passed", pictures="ab")], 1),
        ([verdict("failed", pictures="xy", noise=True), verdict("passed", pictures="yz", noise=True)], 0),
        ([verdict("failed", pictures="a", shapes=[(1, 9, 9)]), verdict("passed", pictures="a")], 0),
        ([verdict("failed", pictures="a", shapes=[(1, 9, 9)]), verdict("passed", pictures="a", shapes=[None, (1, 9, 9)])], 1),
    ],
)
def test_a_failure_is_answered_on_the_pictures_that_failed(history, counts):
    """Others, however many, say nothing of it; nor do other shapes. Each failure is answered by itself."""
    assert counting(history, FILES) is history[counts]


def test_other_files_have_no_verdict():
    """What was proven of other files is not proven of these."""
    history = [verdict("failed", files=("b" * 64,)), PASSED, verdict("failed", files=())]
    assert counting(history, FILES) is PASSED
    assert counting(history, ("c" * 64,)) is None


def test_a_cpu_verdict_does_not_cover_cuda():
    """Each kind of device has its own; asked for any, the worst."""
    on_gpu = verdict("failed", device="cuda (NVIDIA X)", images=1)
    history = [on_gpu, PASSED]
    assert counting(history, FILES, "cpu") is PASSED
    assert counting(history, FILES, "cuda") is on_gpu
    assert counting(history, FILES) is on_gpu
    assert counting([PASSED], FILES, "cuda") is None
    assert counting([PASSED, SKIPPED], FILES, "cuda") is SKIPPED


def test_a_skip_that_names_a_device_replaces_nothing():
    """Nor does one that would be stronger evidence if it were any."""
    skipped = msgspec.structs.replace(verdict("passed", images=99), verdict="skipped")
    for one in (PASSED, FAILED):
        assert counting([one, skipped], FILES) is counting([one, skipped], FILES, "cpu") is one
    assert counting([skipped], FILES, "cpu") is counting([skipped], FILES) is skipped
