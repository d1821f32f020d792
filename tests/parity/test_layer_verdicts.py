"""What is said of layers side by side, whole: stage, module, words, the layers that add most, and whether it is sure."""

import numpy as np
import pytest

from segdeploy.artifact.verdict import Divergence, LayerError
from segdeploy.parity.layers import compare_layers, relative_error, rounding
from segdeploy.runtime.layer_run import LayerRun, logits_run

ONES = np.ones(4)


def layer(module, given, made, between=()):
    """A layer that is given so many times ones, and makes so many; None where nobody can see what it is given."""
    return LayerRun(module, "Conv", None if given is None else given * ONES, (made * ONES,), between)


REFERENCE = [layer("a", 1.0, 1.0), layer("head.b", 1.0, 1.0), layer("head.c", 1.0, 1.0)]


def compared(candidate, precision="fp32", reference=REFERENCE):
    return compare_layers(reference, candidate, precision)


def test_another_input():
    """Before the network, by how much, and what it may be."""
    assert compared([layer("a", 1.5, 9.0), *REFERENCE[1:]]) == Divergence(
        stage="preprocessing",
        module="",
        detail="the first layer, a, is given another input (50 % off): normalisation, channel order or padding differ",
    )


def test_another_network():
    """Without names, and of another number."""
    found = compared([layer("", 1.0, 1.0)])
    told = "the candidate runs 1 layers with weights, the reference 3: it is another network"
    assert found == Divergence(stage="graph", module="", detail=told)


def test_the_first_that_differs():
    """Its own output, by how much; the layers that add most behind it."""
    found = compared([REFERENCE[0], layer("head.b", 1.0, 1.25), layer("head.c", 1.25, 1.25)])
    assert (found.stage, found.module, found.sure) == ("graph", "head.b", True)
    assert found.detail == "the first layer whose output differs (25 % off), its input being right"
    assert found.layers[0] == LayerError(module="head.b", op="Conv", relative=0.25, added=0.25)
    assert [one.added for one in found.layers] == [0.25, 0.0, 0.0]


@pytest.mark.parametrize(
    ("precision", "stage", "told"),
    [
        ("fp32", "graph", "its output is not finite in fp32"),
        ("fp16", "precision", "its output is not finite in fp16: it leaves the range of the type"),
    ],
)
def test_what_is_not_finite(precision, stage, told):
    """A fault of the graph in float32; of the type in a smaller one."""
    found = compared([REFERENCE[0], layer("head.b", 1.0, np.inf), layer("head.c", np.inf, np.nan)], precision)
    assert (found.stage, found.module, found.detail) == (stage, "head.b", told)
    assert found.layers[0].relative is None


@pytest.mark.parametrize(("between", "inside", "operations"), [
    ((), "head", "operations without weights"),
    ((("", "Mul"),), "head", "Mul"),
    ((("head.pool", "MatMul"), ("head", "Resize"), ("head", "MatMul")), "head", "MatMul, Resize"),
    ((("head", "Resize"), ("head.pool.x", "MatMul")), "head.pool.x", "Resize, MatMul"),
])  # fmt: skip
def test_between_two_layers(between, inside, operations):
    """The operations once each, where the last of them belongs; the module around the layer, where none says."""
    found = compared([*REFERENCE[:1], layer("head.b", 1.5, 1.5, between), layer("head.c", 1.5, 1.5)])
    told = f"what head.b is given differs (50 % off), though every layer before is right: {operations} in {inside}"
    assert (found.stage, found.module, found.detail) == ("graph", inside, told)
    assert len(found.layers) == 3


@pytest.mark.parametrize(("precision", "stage"), [("fp32", "graph"), ("fp16", "precision")])
def test_between_two_layers_nothing_is_a_number(precision, stage):
    """In a smaller type its range is at fault."""
    found = compared(
        [REFERENCE[0], layer("head.b", np.nan, np.nan, (("head", "Exp"),)), layer("head.c", np.nan, np.nan)], precision
    )
    assert found.detail == "what head.b is given is not finite, though every layer before is right: Exp in head"
    assert (found.stage, found.module) == (stage, "head")


def test_a_scale_that_does_not_fit():
    """Only where the input is quantized, and in a lower precision."""
    between = (("head", "QuantizeLinear"), ("head", "DequantizeLinear"))
    candidate = [REFERENCE[0], layer("head.b", 1.5, 1.5, between), layer("head.c", 1.5, 1.5)]
    found = compared(candidate, "int8")
    told = "its input, as it is quantized, differs (50 % off), though every layer before is right: its scale does not fit"
    assert (found.stage, found.module, found.detail) == ("precision", "head.b", told)
    assert found.layers[0].module in {"head.b", "a"}
    assert compared(candidate, "fp32").stage == "graph"
    assert (
        compared([REFERENCE[0], layer("head.b", 1.5, 1.5, (("head", "Mul"),)), layer("head.c", 1.5, 1.5)], "int8").stage
        == "graph"
    )


def test_what_a_layer_before_explains():
    """An input that is off by no more than twice what a layer before made is that one's error; by more it is another."""
    for given, stage in ((1.16, "precision"), (1.18, "graph")):
        candidate = [layer("a", 1.0, 1.0 + 0.08), layer("head.b", given, 1.6), layer("head.c", 1.6, 1.6)]
        found = compared(candidate, "int8")
        assert found.stage == stage
        assert found.module == ("head.b" if stage == "precision" else "head")


def test_the_layer_that_adds_most():
    """In a lower precision: by name, with the others."""
    found = compared([layer("a", 1.0, 1.02), layer("head.b", 1.02, 1.3), layer("head.c", 1.3, 1.31)], "int8")
    assert (found.stage, found.module, found.detail) == ("precision", "head.b", "the layer that adds most to the error in int8")
    assert [one.module for one in found.layers] == ["head.b", "a", "head.c"]
    assert [one.added for one in found.layers] == pytest.approx([0.28, 0.02, 0.01])


def test_rounding_that_adds_up():
    """No layer stands out: how many there are, how far off the logits, and who adds most."""
    reference = [*REFERENCE, logits_run(ONES, named=True)]
    candidate = [layer("a", 1.0, 1.03), layer("head.b", 1.03, 1.05), layer("head.c", 1.05, 1.06)]
    found = rounding(reference, [*candidate, logits_run(1.07 * ONES, named=True)], "int8")
    told = "no layer stands out: the rounding of int8 adds up over 4 of them, to 7 % of the logits"
    assert (found.stage, found.module, found.detail, found.sure) == ("precision", "", told, True)
    assert [one.module for one in found.layers] == ["a", "head.b", "head.c"]
    lost = rounding(reference, [*candidate[:2], logits_run(1.07 * ONES, named=True)], "int8")
    assert (lost.sure, lost.detail.rpartition("; ")[2]) == (False, "not compared, having no counterpart: 1 layers (head.c)")


@pytest.mark.parametrize(("count", "shown"), [(5, "x0, x1, x2, x3, x4"), (6, "x0, x1, x2, x3, x4, ...")])
def test_layers_that_were_not_compared(count, shown):
    """All that have a counterpart agree: the first of those that have none, how many, and some of them; not sure."""
    found = compared([*REFERENCE, *(layer(f"x{index}", 1.0, 1.0) for index in range(count))])
    detail = f"every layer that has a counterpart agrees; not compared, having no counterpart: {count} layers ({shown})"
    assert found == Divergence(stage="graph", module="x0", detail=detail, sure=False)


@pytest.mark.parametrize("change", ["input", "first", "most"])
def test_nothing_is_sure_beside_them(change):
    """Whatever else was found."""
    spoiled = {
        "input": [layer("a", 1.5, 9.0), *REFERENCE[1:]],
        "first": [REFERENCE[0], layer("head.b", 1.0, 1.25), layer("head.c", 1.25, 1.25)],
        "most": [layer("a", 1.0, 1.02), layer("head.b", 1.02, 1.3), layer("head.c", 1.3, 1.31)],
    }[change]
    found = compared([*spoiled, layer("x", 1.0, 1.0)], "int8" if change == "most" else "fp32")
    assert found.sure is False
    assert found.detail.endswith("; not compared, having no counterpart: 1 layers (x)")


def test_an_input_that_nobody_sees():
    """It is taken to be as wrong as the worst that a layer before has made: what it makes more is its own."""
    for unseen in (0, 1):
        reference, candidate = (
            list(one) for one in (REFERENCE, [layer("a", 1.0, 1.02), layer("head.b", 1.02, 1.3), layer("head.c", 1.3, 1.31)])
        )
        side = (reference, candidate)[unseen]
        side[1] = layer("head.b", None, side[1].made[0][0])
        found = compared(candidate, "int8", reference)
        assert (found.module, found.layers[0].added) == ("head.b", pytest.approx(0.28))
    first = [layer("a", None, 1.0), *REFERENCE[1:]]
    assert compared(first) is None


def test_only_the_logits_match():
    """Two networks that have nothing but an output in common."""
    found = compared([layer("x", 1.0, 1.0), logits_run(ONES, named=True)], reference=[*REFERENCE, logits_run(ONES, named=True)])
    assert "it is another network" in found.detail


def test_small_values_have_their_own_measure():
    """An error is relative however small the values; of an empty tensor there is none."""
    assert relative_error(1e-6 * ONES, 2e-6 * ONES) == pytest.approx(1)
    tiny = [layer("a", 1e-6, 1e-6), layer("b", 1e-6, 1e-6)]
    spoiled = 1e-6 * ONES
    spoiled[0] += 2e-9
    found = compared([tiny[0], LayerRun("b", "Conv", 1e-6 * ONES, (spoiled,), ())], reference=tiny)
    assert found.module == "b"
    empty = [LayerRun("a", "Conv", np.zeros(0), (np.zeros(0),), ())]
    assert compared(empty, reference=empty) is None
