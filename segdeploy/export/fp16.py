"""fp16: the float32 ONNX graph with the arithmetic of its layers in half precision, and the rest as it was.

onnxruntime's and onnxconverter-common's converters cast every value that passes between two float32 nodes down to fp16 and up
again: a layer that was kept because it overflows then overflows all the same. They also write a value twice where two kept
nodes read it. Here a cast stands only where the precision changes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from onnx import AttributeProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from segdeploy.artifact.quantization import KeptLayer
from segdeploy.base.errors import ExportError
from segdeploy.export.nodes import comes_from, float_tensors, is_top_level, module_of, pixel_tensors, pooling_products
from segdeploy.export.rewrites.pooling import ExactAdaptiveAvgPool2d

LARGEST = float(np.finfo(np.float16).max)
# The pictures are a sample: another one may reach further. A layer that comes within a factor of two is kept as well.
HEADROOM = 2.0
# What torch.autocast runs in float32 for its range or its long sums (its docs: "CUDA Ops that can autocast to float32").
_REDUCTIONS = ("ReduceMean", "ReduceSum", "ReduceSumSquare", "ReduceL1", "ReduceL2", "ReduceLogSumExp", "CumSum")
_NORMS = ("LayerNormalization", "GroupNormalization", "InstanceNormalization", "RMSNormalization")
_WIDE_OPS = {"Softmax", "LogSoftmax", "Exp", "Log", "Pow", "Sqrt", "Reciprocal", *_REDUCTIONS, *_NORMS}
# What makes of a value no more than an epsilon one that is no more either.
_HANDED_ON = frozenset({"Expand", "Sqrt", "Reshape", "Unsqueeze", "Squeeze", "Transpose", "Identity"})
# Their scales and sizes are float32 by the standard.
_FLOAT_INPUTS: Mapping[str, frozenset[int]] = {"Resize": frozenset({1, 2})}


def sensitive_nodes(model: ModelProto) -> dict[str, str]:
    """The nodes that stay in float32 whatever the images are: name to reason ('' for index arithmetic, which is no layer)."""
    pixels, pooling = pixel_tensors(model), pooling_products(model)
    epsilons, floored = _epsilons(model), set()
    found = {}
    for node in model.graph.node:
        if not pixels.intersection(node.output):
            # Positions and sizes: integers above 2048 are not exact in fp16. The pooling matrices are made of them.
            found[node.name] = ""
        elif node.name in pooling or comes_from(node, ExactAdaptiveAvgPool2d):
            found[node.name] = "exact pooling: long sums"
        elif is_top_level(node):
            found[node.name] = "normalisation of the input, upsampling and argmax: the mask is that of the float32 logits"
        elif node.op_type in _WIDE_OPS:
            found[node.name] = "float32 in torch.autocast too: range or long sums"
        elif not epsilons.isdisjoint(node.input):
            found[node.name] = "an epsilon that is 0 in fp16"
            floored.update(node.output)
        elif not floored.isdisjoint(node.input):
            found[node.name] = "may read no more than an epsilon that is 0 in fp16"
        # What is kept for its own sake may hand an epsilon on: a root of a sum with one.
        if not floored.isdisjoint(node.input) and node.op_type in _HANDED_ON:
            floored.update(node.output)
    return found


def _epsilons(model: ModelProto) -> set[str]:
    """The constants of one number that is not 0, and is in fp16."""
    values = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        values |= {
            name: one.t for name in node.output for one in node.attribute if node.op_type == "Constant" and one.name == "value"
        }
    found = set()
    for name, tensor in values.items():
        if tensor.data_type == TensorProto.FLOAT and int(np.prod(tensor.dims)) == 1:
            number = numpy_helper.to_array(tensor).reshape(())
            if number != 0 and np.float16(number) == 0:
                found.add(name)
    return found


def overflowing_nodes(model: ModelProto, ranges: Any, already: Iterable[str]) -> dict[str, str]:
    """The nodes that make or read a value outside fp16's range: name to reason.

    Args:
        model: the float32 graph.
        ranges: by tensor, what it reached on real images (``measure_ranges``).
        already: nodes that are in float32 anyway.

    Raises:
        ExportError: a value is not finite in float32.
    """
    peaks = {name: float(np.max(np.abs(ranges[name].range_value))) for name in ranges.keys()}  # noqa: SIM118  not a dict
    for tensor in model.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT:
            values = numpy_helper.to_array(tensor)
            peaks[tensor.name] = float(np.abs(values).max()) if values.size else 0.0
    skipped, found = set(already), {}
    for node in model.graph.node:
        made = max((peaks.get(name, 0.0) for name in node.output), default=0.0)
        read = max((peaks.get(name, 0.0) for name in node.input), default=0.0)
        if not np.isfinite(made):
            raise ExportError(
                expected="finite values in the float32 model",
                got=f"{made} from {node.op_type} '{module_of(node)}'",
                fix="the checkpoint is damaged or diverged: train it again",
            )
        if node.name in skipped or max(made, read) <= LARGEST / HEADROOM:
            continue
        verb, peak = ("reaches", made) if made > LARGEST / HEADROOM else ("reads", read)
        found[node.name] = f"{verb} {peak:.3g}, {'beyond' if peak > LARGEST else 'near'} fp16's largest, {LARGEST:.0f}"
    return found


def to_half(model: ModelProto, keep: Iterable[str]) -> ModelProto:
    """Convert a graph to fp16 except for some nodes. Inputs and outputs keep their types.

    Args:
        model: a float32 graph whose tensors are all typed; it is changed.
        keep: names of nodes that stay as they are.

    Raises:
        ExportError: the graph has branches or loops.
    """
    nested = [node for node in model.graph.node for entry in node.attribute if entry.type == AttributeProto.GRAPH]
    if nested:
        raise ExportError(
            expected="a graph without branches and loops",
            got=f"{nested[0].op_type} '{nested[0].name}'",
            fix="export this model with --precision fp32",
        )
    return _Converter(model, set(keep)).run()


def kept_layers(model: ModelProto, reasons: Mapping[str, str]) -> tuple[KeptLayer, ...]:
    """What to tell of kept nodes: one line a module and reason, without index arithmetic."""
    groups: dict[tuple[str, str], list[str]] = {}
    for node in model.graph.node:
        if reasons.get(node.name):
            ops = groups.setdefault((module_of(node) or "(graph)", reasons[node.name]), [])
            if node.op_type not in ops:
                ops.append(node.op_type)
    return tuple(KeptLayer(name=module, op=", ".join(ops), reason=why) for (module, why), ops in groups.items())


class _Converter:
    """One pass over the nodes, in their order; every value is cast at most once each way."""

    def __init__(self, model: ModelProto, keep: set[str]) -> None:
        graph = model.graph
        self._model, self._keep = model, keep
        self._floats = float_tensors(model)
        self._infos = {value.name: value for value in (*graph.value_info, *graph.input, *graph.output)}
        self._weights = {tensor.name: tensor for tensor in graph.initializer}
        self._outputs = {value.name for value in graph.output}
        self._half: set[str] = set()  # values that are fp16 now
        self._casts: dict[tuple[str, int], str] = {}
        self._nodes: list[NodeProto] = []

    def run(self) -> ModelProto:
        graph = self._model.graph
        for node in graph.node:
            self._convert(node)
        del graph.node[:]
        graph.node.extend(self._nodes)
        used = {name for node in self._nodes for name in node.input}
        unused = [tensor for tensor in graph.initializer if tensor.name not in used]
        for tensor in unused:
            graph.initializer.remove(tensor)
        dropped = {tensor.name for tensor in unused}
        for value in [value for value in graph.value_info if value.name in dropped]:
            graph.value_info.remove(value)
        return self._model

    def _convert(self, node: NodeProto) -> None:
        if node.op_type in {"Shape", "Size"}:  # they read no value
            self._nodes.append(node)
            return
        half = node.name not in self._keep
        fixed = _FLOAT_INPUTS.get(node.op_type, frozenset())
        for index, name in enumerate(node.input):
            if name in self._floats:
                node.input[index] = self._as_type(name, half=half and index not in fixed)
        self._nodes.append(node)
        if not half:
            return
        for attribute in node.attribute:
            if node.op_type == "Cast" and attribute.name == "to" and attribute.i == TensorProto.FLOAT:
                attribute.i = TensorProto.FLOAT16
        for index, name in enumerate(node.output):
            if name in self._outputs and name in self._floats:  # the model's own output stays float32
                inner = self._info(name, f"{name}_fp16", TensorProto.FLOAT16)
                node.output[index] = inner
                self._nodes.append(helper.make_node("Cast", [inner], [name], name=f"{name}_cast", to=TensorProto.FLOAT))
                self._casts[name, TensorProto.FLOAT16] = inner
            elif name in self._floats:
                self._half.add(name)
                self._infos[name].type.tensor_type.elem_type = TensorProto.FLOAT16

    def _as_type(self, name: str, *, half: bool) -> str:
        """The name under which a value can be read in the precision that a node needs."""
        wanted = TensorProto.FLOAT16 if half else TensorProto.FLOAT
        if half == (name in self._half):
            return name
        if (name, wanted) not in self._casts:
            self._casts[name, wanted] = self._cast(name, wanted)
        return self._casts[name, wanted]

    def _cast(self, name: str, wanted: int) -> str:
        renamed = f"{name}_fp16" if wanted == TensorProto.FLOAT16 else f"{name}_fp32"
        if name in self._weights:
            with np.errstate(over="ignore"):  # overflowing_nodes() has found those
                values = numpy_helper.to_array(self._weights[name]).astype(np.float16)
            self._model.graph.initializer.append(numpy_helper.from_array(values, renamed))
            return renamed
        self._info(name, renamed, wanted)
        self._nodes.append(helper.make_node("Cast", [name], [renamed], name=f"{renamed}_cast", to=wanted))
        return renamed

    def _info(self, name: str, renamed: str, kind: int) -> str:
        info = self._model.graph.value_info.add()
        info.CopyFrom(self._infos[name])
        info.name = renamed
        info.type.tensor_type.elem_type = kind
        return renamed
