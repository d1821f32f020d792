"""Layers side by side: made by hand, so that the right answer is known."""

import numpy as np
import pytest

from segdeploy.parity.layers import compare_layers, relative_error
from segdeploy.runtime.layer_run import LayerRun, logits_run


def layer(module, given, made, between=()):
    return LayerRun(module, "Conv", np.asarray(given, float), (np.asarray(made, float),), between)


REFERENCE = [layer("a", [1, 2], [3, 4]), layer("b", [3, 4], [5, 6]), layer("c", [5, 6], [7, 8])]


@pytest.mark.parametrize("named", [True, False])
def test_agreement_and_the_first_that_differs(named):
    """None where all agree; else the first, not those that it spoils; matched by order where there are no names."""
    names = ("a", "b", "c") if named else ("", "", "")
    good = [layer(name, one.given, one.made[0]) for name, one in zip(names, REFERENCE, strict=True)]
    assert compare_layers(REFERENCE, good, "fp32") is None
    bad = [good[0], layer(names[1], [3, 4], [5, 9]), layer(names[2], [5, 9], [7, 11])]
    found = compare_layers(REFERENCE, bad, "fp32")
    assert (found.stage, found.module) == ("graph", "b")
    assert found.layers[0].module == "b"


def test_a_folded_normalisation():
    """A layer may be what it was, or what it is with the normalisation behind it."""
    folded = LayerRun("b", "Conv", np.array([3.0, 4.0]), (np.array([5.0, 6.0]), np.array([50.0, 60.0])))
    candidate = [REFERENCE[0], layer("b", [3, 4], [50, 60]), REFERENCE[2]]
    assert compare_layers([REFERENCE[0], folded, REFERENCE[2]], candidate, "fp32") is None


def test_between_layers():
    """What a layer is given differs though all before are right: the operations in between, and where they are."""
    candidate = [REFERENCE[0], layer("b", [9, 9], [1, 1], (("head.pool", "MatMul"), ("head", "Resize"))), REFERENCE[2]]
    found = compare_layers(REFERENCE, candidate, "fp32")
    assert (found.stage, found.module) == ("graph", "head")
    assert "MatMul, Resize" in found.detail


def test_the_input():
    """The first layer is given something else: before the network."""
    candidate = [layer("a", [2, 1], [9, 9]), *REFERENCE[1:]]
    assert compare_layers(REFERENCE, candidate, "fp32").stage == "preprocessing"


def test_precisions():
    """In a lower precision rounding adds up: the layer that adds most is named, and what is not finite at once."""
    rounded = [layer("a", [1, 2], [3.01, 4]), layer("b", [3.01, 4], [5.02, 6.01]), layer("c", [5.02, 6.01], [7.03, 8.01])]
    assert compare_layers(REFERENCE, rounded, "int8") is None
    worse = [rounded[0], layer("b", [3.01, 4], [7, 9]), layer("c", [7, 9], [10, 12])]
    found = compare_layers(REFERENCE, worse, "int8")
    assert (found.stage, found.module) == ("precision", "b")
    overflow = [rounded[0], layer("b", [3.01, 4], [np.inf, 6]), layer("c", [np.inf, 6], [np.nan, np.nan])]
    found = compare_layers(REFERENCE, overflow, "fp16")
    assert (found.stage, found.module) == ("precision", "b")
    assert found.layers[0].relative is None


def test_another_network():
    """Unnamed layers of another number cannot be matched."""
    assert "another network" in compare_layers(REFERENCE, [layer("", [1], [1])], "fp32").detail


def test_relative_error():
    """As numpy computes it; another shape is infinitely far; what is not finite is no number."""
    a, b = np.random.default_rng(0).normal(size=(2, 50))
    assert relative_error(a, b) == pytest.approx(np.linalg.norm(a - b) / np.linalg.norm(a))
    assert relative_error(a, b[:-1]) == float("inf")
    assert relative_error(a, np.where(a > 0, np.nan, a)) is None


def test_one_bad_value_in_a_large_tensor():
    """A relative length of 1e-4 hides it; the largest difference does not."""
    values = np.random.default_rng(0).normal(size=100_000)
    bad = values.copy()
    bad[777] += 0.02 * np.abs(values).max()
    assert relative_error(values, bad) < 3e-4
    assert relative_error(values, values + (bad - values) * 0.2) < 1e-4
    slightly = values + (bad - values) * 0.2
    reference = [layer("a", [1, 2], [3, 4]), layer("b", [3, 4], values), layer("c", values, [7, 8])]
    candidate = [reference[0], layer("b", [3, 4], slightly), layer("c", slightly, [7, 8])]
    assert compare_layers(reference, candidate, "fp32").module == "b"


def test_layers_without_a_counterpart_are_shown():
    """Renamed or missing layers were not compared: what is said is not sure, whether something else differs or nothing."""
    renamed = [REFERENCE[0], layer("head.b", [3, 4], [5, 9]), layer("c", [5, 6], [7, 8])]
    found = compare_layers(REFERENCE, renamed, "fp32")
    assert not found.sure
    assert "2 layers (head.b, b)" in found.detail
    worse = [*renamed[:2], layer("c", [5, 9], [7, 11])]
    found = compare_layers(REFERENCE, worse, "fp32")
    assert not found.sure
    assert "head.b" in found.detail


def test_behind_the_last_layer():
    """What happens to the logits behind the last layer is no runtime's fault."""
    good = [*REFERENCE, logits_run(np.array([7.0, 8.0]), named=True)]
    clipped = [*REFERENCE, logits_run(np.array([7.0, 7.5]), named=True, between=(("head", "Clip"),))]
    assert compare_layers(good, good, "fp32") is None
    found = compare_layers(good, clipped, "fp32")
    assert (found.stage, found.module) == ("graph", "head")
    assert "Clip" in found.detail
    assert "logits" not in [one.module for one in found.layers]
