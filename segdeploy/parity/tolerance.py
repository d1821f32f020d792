"""What parity allows, by precision, and why. docs/parity.md tells the same at length."""

from __future__ import annotations

import msgspec

from segdeploy.artifact.manifest import Precision
from segdeploy.artifact.verdict import Tolerance
from segdeploy.base.errors import InputError

# fp32: float addition in another order moves a logit by about 1e-6 of its size; 1e-4 is a hundred times that, and a real
#   fault (a swapped channel, another pooling) is a thousand times larger still.
# fp16: 11 bits of mantissa, about 5e-4 a rounding, summed over some fifty layers.
# bf16: 8 bits of mantissa, so each rounding is eight times fp16's, about 4e-3. The same depth of network would come to 8e-2;
#   convolutions sum in float32 and only their inputs are rounded: 1.2e-2 was the most on a UPerNet trained on photographs.
# int8: about 1/127 of a tensor's range a rounding; only the masks and the task say whether it matters.
TOLERANCES: dict[Precision, Tolerance] = {
    "fp32": Tolerance(logits_max_abs=1e-4, mask_agreement=0.9999, miou_points=0.1),
    "fp16": Tolerance(logits_max_abs=1e-2, mask_agreement=0.998, miou_points=0.3),
    "bf16": Tolerance(logits_max_abs=5e-2, mask_agreement=0.99, miou_points=0.3),
    "int8": Tolerance(logits_max_abs=5e-1, mask_agreement=0.95, miou_points=1.0),
}

# Between logits and mask lie one or two resizes, which round too, by so much of the largest logit.
RESIZE_ROUNDING: dict[Precision, float] = {"fp32": 1e-5, "fp16": 5e-3, "bf16": 5e-3, "int8": 5e-3}


def tolerance_for(
    precision: Precision,
    *,
    logits_max_abs: float | None = None,
    mask_agreement: float | None = None,
    miou_points: float | None = None,
) -> Tolerance:
    """The tolerance of a precision, with what the user chose otherwise; the verdict records which.

    Raises:
        InputError: a value that allows nothing or everything.
    """
    chosen = {
        name: value
        for name, value in (
            ("logits_max_abs", logits_max_abs),
            ("mask_agreement", mask_agreement),
            ("miou_points", miou_points),
        )
        if value is not None
    }
    for name, value in chosen.items():
        if value <= 0 or (name == "mask_agreement" and value > 1):
            raise InputError(
                expected=f"a tolerance above 0{', up to 1,' if name == 'mask_agreement' else ''} for {name}",
                got=f"{value:g}",
                fix="see docs/parity.md",
            )
    return msgspec.structs.replace(TOLERANCES[precision], **chosen, overridden=tuple(chosen))
