"""What is allowed, and what the user chose otherwise."""

import msgspec
import pytest

from segdeploy.artifact.manifest import PRECISIONS
from segdeploy.base.errors import InputError
from segdeploy.parity.tolerance import TOLERANCES, tolerance_for


@pytest.mark.parametrize("precision", PRECISIONS)
def test_of_a_precision(precision):
    """Where nothing is chosen, its own, and nothing is said to be chosen."""
    assert tolerance_for(precision) == TOLERANCES[precision]
    assert TOLERANCES[precision].overridden == ()


@pytest.mark.parametrize(("name", "value"), [("logits_max_abs", 3.0), ("mask_agreement", 1.0), ("miou_points", 0.01)])
def test_one_that_is_chosen(name, value):
    """It counts, the others stay, and the verdict will say which it was."""
    expected = msgspec.structs.replace(TOLERANCES["fp16"], **{name: value}, overridden=(name,))
    assert tolerance_for("fp16", **{name: value}) == expected


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("logits_max_abs", 0.0, "above 0 for logits_max_abs; got 0; see docs/parity.md"),
        ("miou_points", -1.0, "above 0 for miou_points; got -1; see docs/parity.md"),
        ("mask_agreement", 0.0, "above 0, up to 1, for mask_agreement; got 0; see docs/parity.md"),
        ("mask_agreement", 1.5, "above 0, up to 1, for mask_agreement; got 1.5; see docs/parity.md"),
    ],
)
def test_one_that_allows_nothing_or_everything(name, value, told):
    """One line."""
    with pytest.raises(InputError) as caught:
        tolerance_for("fp32", **{name: value})
    assert str(caught.value) == f"expected a tolerance {told}"
