"""The checks of a verdict: each is there, what was left out too."""

import shlex

import click
import pytest

from segdeploy.artifact.verdict import Parity, Tolerance, describe_shape, shape_check, worst


@pytest.fixture
def parity():
    """A verdict that left two ends of a range out."""
    return Parity(
        reference="r",
        inputs="i",
        device="cpu",
        tolerance=Tolerance(logits_max_abs=1e-4, mask_agreement=0.9999, miou_points=0.1),
        shapes=(),
        verdict="passed",
        left_out=((4, 1024, 2048), (16, 512, 1000)),
    )


def test_names_of_shapes():
    """Batch, height, width; or the pictures' own."""
    assert describe_shape((2, 30, 40)) == "2 x 30x40"
    assert shape_check((2, 30, 40)) == "logits and masks, 2 x 30x40"
    assert shape_check(None) == "logits and masks, own sizes"


def test_what_was_left_out_is_a_line_with_the_options_that_run_it(parity):
    """Skipped, with its size; the options are such as ``segdeploy verify`` takes."""
    from segdeploy.cli.main import cli
    from segdeploy.cli.verify import command
    from segdeploy.export.shapes import parse_size

    first, second = (check for check in parity.checks if check.name in map(shape_check, parity.left_out))
    assert first.verdict == second.verdict == "skipped"
    assert first.reason.startswith("not looked at: 8.4 million pixels in a batch; ")
    assert second.reason.startswith("not looked at: 8.2 million pixels in a batch; ")
    wanted = second.reason.partition("; ")[2].removesuffix(" runs it")
    options = command.make_context("verify", shlex.split(wanted), parent=click.Context(cli, **cli.context_settings)).params
    assert (options["batch"], *(parse_size(size, "--shape") for size in options["sizes"])) == (16, (512, 1000))


def test_what_was_not_asked_for_is_a_line(parity):
    """A check that was not made is skipped, with its reason; of a skipped verdict all of them are."""
    told = {check.name: (check.verdict, check.reason) for check in parity.checks}
    assert told["logits and masks"] == ("skipped", "a server gives labels only")
    assert told["mIoU"] == told["determinism"] == ("skipped", "not asked for")
    import msgspec

    skipped = msgspec.structs.replace(parity, verdict="skipped", reason="no GPU")
    assert [(check.name, check.verdict, check.reason) for check in skipped.checks] == [
        (name, "skipped", "no GPU") for name in ("logits and masks", "labels at the pictures' own size", "mIoU", "determinism")
    ]


def test_nothing_is_no_pass():
    """The worst of no verdict at all is that nothing was judged."""
    assert worst([]) == worst(["skipped"]) == "skipped"
