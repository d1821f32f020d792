"""What the nodes of an exported ONNX graph are: the module that they come from, whether pixels reach them."""

from __future__ import annotations

import ast
from typing import Any

from onnx import ModelProto, NodeProto, TensorProto

# torch.onnx writes these two for every node that it can trace back to a module.
_SCOPES, _CLASSES = "pkg.torch.onnx.name_scopes", "pkg.torch.onnx.class_hierarchy"


def module_of(node: NodeProto, weights: set[str]) -> str:
    """The path of the module that a node comes from (``decode_head.bottleneck.conv``), empty for the deploy graph itself.

    Args:
        node: of a graph that torch.onnx wrote.
        weights: the names of the graph's initialisers. A convolution that batch norm was folded into carries the norm's
            path; its weight still has its own.
    """
    for name in node.input[1:2]:
        if name in weights and name.endswith(".weight"):
            return name.removesuffix(".weight")
    scopes = _facts(node, _SCOPES)
    return str(scopes[-2]) if len(scopes) > 1 else ""


def comes_from(node: NodeProto, cls: type) -> bool:
    """Whether a node was traced inside a module of a class."""
    return f"{cls.__module__}.{cls.__qualname__}" in _facts(node, _CLASSES)


def is_top_level(node: NodeProto) -> bool:
    """Whether a node belongs to the deploy graph itself: its normalisation, its upsampling, its argmax."""
    return len(_facts(node, _SCOPES)) == 2


def pixel_tensors(model: ModelProto) -> set[str]:
    """Every tensor whose values depend on the image's; what depends on its shape alone is index arithmetic."""
    reached = {value.name for value in model.graph.input}
    for node in model.graph.node:
        if node.op_type not in {"Shape", "Size"} and not reached.isdisjoint(node.input):
            reached.update(node.output)
    return reached


def float_tensors(model: ModelProto) -> set[str]:
    """The names of all float32 tensors, initialisers among them."""
    graph = model.graph
    values = [*graph.input, *graph.output, *graph.value_info]
    return {value.name for value in values if value.type.tensor_type.elem_type == TensorProto.FLOAT} | {
        tensor.name for tensor in graph.initializer if tensor.data_type == TensorProto.FLOAT
    }


def _facts(node: NodeProto, key: str) -> list[Any]:
    text = next((entry.value for entry in node.metadata_props if entry.key == key), "[]")
    found = ast.literal_eval(text)
    return found if isinstance(found, list) else []
