"""One run of one layer: what a backend tells of its inside, and what parity compares."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

# Stands behind the layers for the logits as they leave the network: what happens to them behind the last layer shows there.
LOGITS = "logits"


@dataclass(frozen=True)
class LayerRun:
    """One run of one layer, which is what has weights: a convolution or a matrix product with them.

    Attributes:
        module: its path in the checkpoint; empty where the format does not know it.
        op: what it is.
        given: its input; None where nobody can see it, as that of a convolution that is done before the upsampling.
        made: its output; of the reference also that of a normalisation behind it, which exporters fold into the layer.
        between: the operations between the layers before and this one, as (module, op); empty where nobody knows.
    """

    module: str
    op: str
    given: NDArray[Any] | None
    made: tuple[NDArray[Any], ...]
    between: tuple[tuple[str, str], ...] = ()


def logits_run(logits: NDArray[Any], *, named: bool, between: tuple[tuple[str, str], ...] = ()) -> LayerRun:
    """The logits as if they were a layer, the last one.

    Args:
        logits: float32 [N, K, h, w].
        named: whether the other layers of this run are.
        between: as of a layer.
    """
    return LayerRun(LOGITS if named else "", LOGITS, logits, (logits,), between)
