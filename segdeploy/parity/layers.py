"""Layers of two models side by side: the first whose output differs, and what each adds to the error.

A layer is what has weights: a convolution or a matrix product with them. Everything else (pooling, resizing, activations,
sums) lies between layers, and shows in what the next layer is given. The logits stand behind the last one.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from segdeploy.artifact.manifest import Precision
from segdeploy.artifact.verdict import Divergence, LayerError, Stage
from segdeploy.runtime.layer_run import LOGITS, LayerRun

# From this relative error on a layer counts as different. In float32 layers agree to about 1e-6; an fp16 or int8 model
# collects its rounding from layer to layer, and is judged by what each layer adds.
_LIMITS: dict[Precision, float] = {"fp32": 1e-4, "fp16": 2e-2, "bf16": 1e-1, "int8": 1e-1}
# A whole tensor can hide one bad value: that counts as a tenth of what it is off by, of the largest value there is.
_PEAK_SHARE = 0.1
_QUANTIZING = {"QuantizeLinear", "DequantizeLinear"}
_SHOWN = 5


@dataclass(frozen=True)
class _Pair:
    theirs: LayerRun
    ours: LayerRun
    given: float | None  # relative errors; None where they are not finite
    made: float | None


def compare_layers(reference: Sequence[LayerRun], candidate: Sequence[LayerRun], precision: Precision) -> Divergence | None:
    """Where the candidate leaves the reference; None where every layer agrees.

    Args:
        reference: its layers, in the order in which they ran.
        candidate: likewise; matched by module, or by order where it does not know its modules.
        precision: of the candidate.

    Returns:
        Not sure where a layer on either side has no counterpart, and so was not compared.
    """
    pairs, alone = _match(reference, candidate)
    if not pairs:
        return Divergence(
            stage="graph",
            module="",
            detail=f"the candidate runs {len(candidate)} layers with weights, the reference {len(reference)}: "
            "it is another network",
        )
    limit = _LIMITS[precision]
    found = None
    if _differs(pairs[0].given, limit):
        detail = (
            f"the first layer, {pairs[0].theirs.module}, is given another input ({_percent(pairs[0].given)} off): "
            "normalisation, channel order or padding differ"
        )
        return _told_alone(Divergence(stage="preprocessing", module="", detail=detail), alone)
    layers = _worst(pairs)
    for index, pair in enumerate(pairs):
        found = _at(pair, pairs[:index], layers, precision)
        if found is not None:
            return _told_alone(found, alone)
    if precision != "fp32" and layers and _differs(layers[0].added, limit):
        detail = f"the layer that adds most to the error in {precision}"
        return _told_alone(Divergence(stage="precision", module=layers[0].module, detail=detail, layers=layers), alone)
    if alone:
        found = Divergence(stage="graph", module=alone[0], detail="every layer that has a counterpart agrees")
        return _told_alone(found, alone)
    return None


def rounding(reference: Sequence[LayerRun], candidate: Sequence[LayerRun], precision: Precision) -> Divergence:
    """What a lower precision adds up to where no layer stands out: the layers that add most."""
    pairs, alone = _match(reference, candidate)
    layers = _worst(pairs)
    last = pairs[-1].made
    detail = (
        f"no layer stands out: the rounding of {precision} adds up over {len(pairs)} of them, to {_percent(last)} of the logits"
    )
    return _told_alone(Divergence(stage="precision", module="", detail=detail, layers=layers), alone)


def _told_alone(found: Divergence, alone: Sequence[str]) -> Divergence:
    if not alone:
        return found
    shown = ", ".join(alone[:_SHOWN]) + (", ..." if len(alone) > _SHOWN else "")
    detail = f"{found.detail}; not compared, having no counterpart: {len(alone)} layers ({shown})"
    return msgspec.structs.replace(found, detail=detail, sure=False)


def _at(pair: _Pair, before: Sequence[_Pair], layers: tuple[LayerError, ...], precision: Precision) -> Divergence | None:
    """Whether the difference begins at this layer, or right before it."""
    limit = _LIMITS[precision]
    if _differs(pair.given, limit) and not _explained(pair.given, before):
        return _between(pair, layers, precision)
    if pair.made is None:
        detail = f"its output is not finite in {precision}"
        detail += "" if precision == "fp32" else ": it leaves the range of the type"
        stage: Stage = "graph" if precision == "fp32" else "precision"
        return Divergence(stage=stage, module=pair.theirs.module, detail=detail, layers=layers)
    if precision == "fp32" and pair.made > limit:
        detail = f"the first layer whose output differs ({_percent(pair.made)} off), its input being right"
        return Divergence(stage="graph", module=pair.theirs.module, detail=detail, layers=layers)
    return None


def relative_error(reference: NDArray[Any], candidate: NDArray[Any]) -> float | None:
    """Length of the difference over length of the reference; None where one is not finite; infinite shapes' difference too."""
    if reference.shape != candidate.shape:
        return float("inf")
    a, b = reference.astype(np.float64), candidate.astype(np.float64)
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        return None
    return float(np.linalg.norm(a - b) / max(np.linalg.norm(a), 1e-12))


def _layer_error(reference: NDArray[Any], candidate: NDArray[Any]) -> float | None:
    """``relative_error``, or ``_PEAK_SHARE`` of the largest difference over the largest value, where that is more."""
    found = relative_error(reference, candidate)
    if found is None or not np.isfinite(found) or not reference.size:
        return found
    peak = float(np.abs(reference.astype(np.float64) - candidate).max()) / max(float(np.abs(reference).max()), 1e-12)
    return max(found, _PEAK_SHARE * peak)


def _match(reference: Sequence[LayerRun], candidate: Sequence[LayerRun]) -> tuple[list[_Pair], list[str]]:
    """Pairs, in the candidate's order, and the modules of either side that have no counterpart."""
    if not all(layer.module for layer in candidate):
        same = len(reference) == len(candidate)
        return (_pairs(zip(reference, candidate, strict=True)) if same else []), []
    runs = defaultdict(list)
    for layer in reference:
        runs[layer.module].append(layer)
    chosen, alone = [], []
    for layer in candidate:
        if runs[layer.module]:
            chosen.append((runs[layer.module].pop(0), layer))
        else:
            alone.append(layer.module)
    alone += [layer.module for left in runs.values() for layer in left]
    return ([] if all(theirs.op == LOGITS for theirs, _ in chosen) else _pairs(chosen)), list(dict.fromkeys(alone))


def _pairs(chosen: Iterable[tuple[LayerRun, LayerRun]]) -> list[_Pair]:
    pairs: list[_Pair] = []
    for theirs, ours in chosen:
        pairs.append(_pair(theirs, ours, pairs))
    return pairs


def _pair(theirs: LayerRun, ours: LayerRun, before: Sequence[_Pair]) -> _Pair:
    errors = [_layer_error(made, ours.made[0]) for made in theirs.made]
    made = min((error for error in errors if error is not None), default=None)
    if ours.given is None or theirs.given is None:
        # Nobody can see it: it is taken to be as wrong as the worst that a layer before has made.
        return _Pair(theirs, ours, max((pair.made for pair in before if pair.made is not None), default=0.0), made)
    return _Pair(theirs, ours, _layer_error(theirs.given, ours.given), made)


def _differs(error: float | None, limit: float) -> bool:
    return error is None or error > limit


def _explained(given: float | None, before: Sequence[_Pair]) -> bool:
    """Whether a layer before has made an error of that size: what this one is given may then be no more than that."""
    errors = [pair.made for pair in before]
    if None in errors:
        return True
    return given is not None and given <= 2 * max((error for error in errors if error is not None), default=0.0)


def _between(pair: _Pair, layers: tuple[LayerError, ...], precision: Precision) -> Divergence:
    places = [module for module, _ in pair.ours.between if module]
    inside = places[-1] if places else pair.theirs.module.rpartition(".")[0]
    operations = ", ".join(dict.fromkeys(op for _, op in pair.ours.between)) or "operations without weights"
    told = "is not finite" if pair.given is None else f"differs ({_percent(pair.given)} off)"
    quantized = any(op in _QUANTIZING for _, op in pair.ours.between)
    if precision != "fp32" and quantized:
        detail = f"its input, as it is quantized, {told}, though every layer before is right: its scale does not fit"
        return Divergence(stage="precision", module=pair.theirs.module, detail=detail, layers=layers)
    return Divergence(
        stage="precision" if pair.given is None and precision != "fp32" else "graph",
        module=inside,
        detail=f"what {pair.theirs.module} is given {told}, though every layer before is right: {operations} in {inside}",
        layers=layers,
    )


def _worst(pairs: Sequence[_Pair]) -> tuple[LayerError, ...]:
    rows = []
    for pair in (pair for pair in pairs if pair.theirs.op != LOGITS):
        added = None if pair.made is None or pair.given is None else max(pair.made - pair.given, 0.0)
        relative = None if pair.made is None or not np.isfinite(pair.made) else pair.made
        rows.append(LayerError(module=pair.theirs.module, op=pair.ours.op, relative=relative, added=added))
    rows.sort(key=lambda row: float("inf") if row.added is None else row.added, reverse=True)
    return tuple(rows[:_SHOWN])


def _percent(error: float | None) -> str:
    return "not finite" if error is None else f"{100 * error:.2g} %"
