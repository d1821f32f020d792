"""int8: static quantization of the ONNX graph with Q/DQ nodes, through onnxruntime.

A layer that is quantized reads its activation through one Q/DQ pair (one scale a tensor) and has its weights as int8 with a
scale for every output channel. Its output is left as it is: the next layer quantizes what it reads. This is where TensorRT
wants the pairs, onnxruntime fuses them into integer kernels as well, and each layer can be put back to float32 by itself.
A sum reads all its inputs so for onnxruntime, and all but one for the others (``_leave_to_fusion``).
Biases stay float32: TensorRT takes no integer ones.

``quant_pre_process`` is not needed: torch.onnx has folded batch norm and written every tensor's type and shape.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
from onnx import GraphProto, ModelProto, NodeProto
from onnxruntime.quantization import QDQQuantizer, QuantType

from segdeploy.artifact.manifest import Format
from segdeploy.base.errors import ExportError
from segdeploy.export.nodes import comes_from, is_top_level, module_of, pixel_tensors, pooling_products
from segdeploy.export.restructure import ConvBeforeUpsampling
from segdeploy.export.rewrites.pooling import ExactAdaptiveAvgPool2d

# What does the work, and what joins its results: without the second kind float32 islands stand between the integer kernels.
_WEIGHTED = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
_MOVING = frozenset({"Add", "Concat"})


@dataclass(frozen=True)
class QuantizableLayer:
    """A node that can be quantized.

    Attributes:
        node: its name in the graph.
        module: where it comes from in the checkpoint.
        op: its type.
    """

    node: str
    module: str
    op: str

    @property
    def name(self) -> str:
        """The module; the node where it has no weights, or is not the module's first of its kind."""
        return self.module if self.op in _WEIGHTED and self.node == f"{self.module}/{self.op}" else self.node


def quantizable_layers(model: ModelProto) -> list[QuantizableLayer]:
    """The nodes that int8 may take, in the graph's order.

    Never the input's normalisation, the upsampling, the argmax and the exact pooling; no product of two activations either.
    """
    weights = {tensor.name for tensor in model.graph.initializer}
    never = never_quantized(model)
    return [
        QuantizableLayer(node.name, module_of(node), node.op_type)
        for node in model.graph.node
        if node.name not in never and _is_quantizable(node, weights)
    ]


def never_quantized(model: ModelProto) -> set[str]:
    """The names of the nodes whose arithmetic stays float32: see ``quantizable_layers``; and what no pixel reaches."""
    pixels, pooling = pixel_tensors(model), pooling_products(model)
    return {
        node.name
        for node in model.graph.node
        if not pixels.intersection(node.output)
        or node.name in pooling
        or is_top_level(node)
        or comes_from(node, ExactAdaptiveAvgPool2d)
        # The matrices that upsample, and what only joins their results.
        or (comes_from(node, ConvBeforeUpsampling) and node.op_type != "Conv")
    }


def _is_quantizable(node: NodeProto, weights: set[str]) -> bool:
    if node.op_type in _WEIGHTED:
        return node.input[1] in weights
    return node.op_type in _MOVING and weights.isdisjoint(node.input)


def saturates(fmt: Format, flags: Collection[str]) -> bool:
    """Whether sums of two products may overflow on a processor, so that weights may have 7 bits only.

    Of uint8 activations and int8 weights AVX2 and AVX512 add two products in 16 bits; VNNI, and ARM, add in 32.

    Args:
        fmt: TensorRT's activations are int8, and it runs elsewhere.
        flags: the processor's instructions (``cpu_flags``).
    """
    return fmt != "tensorrt" and "avx2" in flags and not any("vnni" in flag for flag in flags)


def describe_method(fmt: Format, *, reduced: bool) -> str:
    """The settings of a format, for its manifest."""
    activations = "int8 symmetric" if fmt == "tensorrt" else "uint8"
    weights = "int8 of 7 bits" if reduced else "int8" if fmt == "tensorrt" else "int8 (x86 processors need VNNI)"
    return f"onnxruntime static Q/DQ, weights {weights} per channel, activations {activations} per tensor, range minmax"


class Quantizer:
    """A float32 graph and its quantized twin; writes any mixture of the two."""

    def __init__(self, source: Path, ranges: Any, fmt: Format, *, reduced: bool = False) -> None:
        """Quantize everything once.

        Args:
            source: the float32 file.
            ranges: of its tensors (``measure_ranges``).
            fmt: what it is for. TensorRT takes symmetric activations only; onnxruntime's CPU kernels are made for uint8 ones,
                which have twice the steps behind a ReLU.
            reduced: give weights 7 bits, where ``saturates``.

        Raises:
            ExportError: there is nothing to quantize, or onnxruntime cannot.
        """
        model = onnx.load(source)
        self.layers = quantizable_layers(model)
        self._inputs = {node.name: list(node.input) for node in model.graph.node}
        self._floats = {tensor.name: tensor for tensor in model.graph.initializer}
        if not self.layers:
            raise ExportError(
                expected="layers that can be quantized (convolutions, matrix products with weights)",
                got="none in this graph",
                fix="use --precision fp16",
            )
        ops = sorted(_WEIGHTED | _MOVING)
        symmetric = fmt == "tensorrt"
        options = {
            "ActivationSymmetric": symmetric,
            "QuantizeBias": False,
            "OpTypesToExcludeOutputQuantization": ops,
        }
        activations = QuantType.QInt8 if symmetric else QuantType.QUInt8
        nodes = [layer.node for layer in self.layers]
        twin = onnx.ModelProto()
        twin.CopyFrom(model)
        try:
            quantizer = QDQQuantizer(twin, True, reduced, QuantType.QInt8, activations, ranges, nodes, [], ops, options)
            quantizer.quantize_model()
            quantizer.model.topological_sort()
        except (ValueError, RuntimeError, KeyError) as error:
            raise ExportError(
                expected="a graph that onnxruntime can quantize",
                got=f"{type(error).__name__}: {error}",
                fix="try --precision fp16, or report the model",
            ) from error
        self._twin: ModelProto = quantizer.model.model
        if fmt != "onnx":
            _leave_to_fusion(self._twin, model, set(nodes))

    def write(self, path: Path, layers: Collection[QuantizableLayer]) -> Path:
        """Write a model in which these layers, and no others, are quantized.

        Every other node reads what it reads in the float32 graph, also where a quantized one reads the same tensor rounded.
        """
        model = ModelProto()
        model.CopyFrom(self._twin)
        chosen = {layer.node for layer in layers}
        graph = model.graph
        present = {tensor.name for tensor in graph.initializer}
        for node in graph.node:
            if node.name in self._inputs and node.name not in chosen:
                node.input[:] = self._inputs[node.name]
                for name in node.input:
                    if name in self._floats and name not in present:
                        graph.initializer.append(self._floats[name])
                        present.add(name)
        _drop_unused(graph)
        onnx.save(model, path)
        return path


def _leave_to_fusion(twin: ModelProto, model: ModelProto, layers: set[str]) -> None:
    """Of what an ``Add`` reads, leave one tensor that a product has made as it was, so that the two are one integer kernel.

    OpenVINO and TensorRT add the other input to the product's sum before they round; onnxruntime's CPU kernels have no such
    addition, and without a pair behind a product they run that in float32.
    """
    weighted = {name for node in model.graph.node if node.op_type in _WEIGHTED for name in node.output}
    inputs = {node.name: node.input for node in model.graph.node if node.op_type == "Add" and node.name in layers}
    for node in twin.graph.node:
        for index, name in enumerate(inputs.get(node.name, ())):
            if name in weighted:
                node.input[index] = name
                break


def _drop_unused(graph: GraphProto) -> None:
    used = {value.name for value in graph.output}
    nodes = []
    for node in reversed(graph.node):
        if not used.isdisjoint(node.output):
            nodes.append(node)
            used.update(node.input)
    nodes.reverse()
    tensors = [tensor for tensor in graph.initializer if tensor.name in used]
    del graph.node[:], graph.initializer[:]
    graph.node.extend(nodes)
    graph.initializer.extend(tensors)
