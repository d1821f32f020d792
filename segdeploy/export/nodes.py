"""What the nodes of an exported ONNX graph are: the module that they come from, whether pixels reach them."""

from __future__ import annotations

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, numpy_helper

from segdeploy.export.graph import DeployGraph
from segdeploy.export.onnx_names import GRAPH, MODULE_CLASS
from segdeploy.export.restructure import ConvBeforeUpsampling


def module_of(node: NodeProto) -> str:
    """The path of the module that a node comes from (``decode_head.bottleneck.conv``), empty for the deploy graph itself.

    Args:
        node: of a graph that ``name_nodes`` has named.
    """
    module = node.name.rpartition("/")[0]
    return "" if module == GRAPH else module


def comes_from(node: NodeProto, cls: type) -> bool:
    """Whether a node is one of a module of a class."""
    return any(
        note.key == MODULE_CLASS and note.value == f"{cls.__module__}.{cls.__qualname__}" for note in node.metadata_props
    )


def is_top_level(node: NodeProto) -> bool:
    """Whether a node belongs to the deploy graph itself: its normalisation, its upsampling, its argmax."""
    return comes_from(node, DeployGraph)


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


def pooling_products(model: ModelProto) -> set[str]:
    """The names of the nodes that pool, as products with an averaging matrix (``rewrites/pooling``).

    Where the pooling is no module but a function that a module calls, the node is that module's: it is known by its matrix,
    which is computed from shapes, or was, where these are fixed.
    """
    pixels = pixel_tensors(model)
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    found = set()
    for node in model.graph.node:
        if node.op_type != "MatMul" or comes_from(node, ConvBeforeUpsampling):
            continue
        for axis, name in enumerate(reversed(node.input)):  # over rows by a matrix on the right
            fixed = name in constants and _averages(numpy_helper.to_array(constants[name]), axis)
            if fixed or (name not in constants and name not in pixels):
                found.add(node.name)
    return found


def _averages(matrix: np.ndarray, axis: int) -> bool:
    """Whether each output of a product is the mean of some of the inputs."""
    if matrix.ndim != 2 or not (matrix >= 0).all():
        return False
    most = matrix.max(axis, keepdims=True)
    return bool(((matrix == 0) | (matrix == most)).all() and np.allclose(matrix.sum(axis), 1, atol=1e-5))
