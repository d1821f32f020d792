"""What the layers of an ONNX graph are given and make, on one image."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segdeploy.artifact.folder import Artifact
from segdeploy.runtime.layer_run import LayerRun, logits_run

_CONVOLUTIONS = {"Conv", "ConvTranspose", "ConvInteger", "QLinearConv"}
_PRODUCTS = {"Gemm", "MatMul"}
_ENDS = {"Add", "MatMul"}
# Between a weight and its layer: scales, precisions and layouts.
_PASSED = {"DequantizeLinear", "QuantizeLinear", "Cast", "Transpose", "Identity"}


def onnx_layers(artifact: Artifact, images: NDArray[np.uint8]) -> list[LayerRun]:
    """Run the graph in onnxruntime with every layer's input and output as outputs of the graph.

    Args:
        artifact: of format ``onnx``.
        images: uint8 [N, H, W, 3].
    """
    import onnx
    import onnxruntime

    model = onnx.load(artifact.model_path)
    graph = model.graph
    weights = {tensor.name for tensor in graph.initializer}
    makers = {name: node for node in graph.node for name in node.output}
    layers = [node for node in graph.node if _is_layer(node, weights, makers)]
    restructured = set(artifact.manifest.restructured)
    # A convolution that is done before the upsampling is many nodes: the last sum, or product, is what it makes.
    whole = {_module(node.name): node for node in graph.node if node.op_type in _ENDS and _module(node.name) in restructured}
    kept = list(dict.fromkeys(name for node in (*layers, *whole.values()) for name in (node.input[0], node.output[0])))
    own = [value.name for value in (*graph.output, *graph.input)]
    graph.output.extend(onnx.ValueInfoProto(name=name) for name in kept if name not in own)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        onnx.save(model, path, save_as_external_data=model.ByteSize() > 1_900_000_000)
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        names = [name for name in dict.fromkeys((*kept, "logits")) if name != artifact.manifest.input.name]
        values = dict(zip(names, session.run(names, {"image": images}), strict=True))
    ends = {name for node in (*layers, *whole.values()) for name in node.output}
    runs = []
    wanted = {node.name for node in (*layers, *whole.values())}
    for node in (one for one in graph.node if one.name in wanted):
        module = _module(node.name)
        if module not in whole:
            between = _between(node.input[0], makers, ends)
            runs.append(LayerRun(module, node.op_type, values[node.input[0]], (values[node.output[0]],), between))
        elif node.name == whole[module].name:
            runs.append(LayerRun(module, "Conv before upsampling", None, (values[node.output[0]],)))
    return [*runs, logits_run(values["logits"], named=True, between=_between("logits", makers, ends))]


def _is_layer(node: Any, weights: set[str], makers: dict[str, Any]) -> bool:
    if node.op_type in _CONVOLUTIONS:
        return True
    return node.op_type in _PRODUCTS and _is_weight(node.input[1], weights, makers)


def _is_weight(name: str, weights: set[str], makers: dict[str, Any]) -> bool:
    while name not in weights:
        maker = makers.get(name)
        if maker is None or maker.op_type not in _PASSED:
            return False
        name = maker.input[0]
    return True


def _module(node: str) -> str:
    return node.rpartition("/")[0]


def _between(given: str, makers: dict[str, Any], ends: set[str]) -> tuple[tuple[str, str], ...]:
    """The operations from the layers before to what a layer is given, in the order of the graph."""
    found: dict[str, tuple[str, str]] = {}
    todo = [given]
    while todo:
        name = todo.pop()
        maker = makers.get(name)
        if maker is None or name in ends or maker.name in found:
            continue
        found[maker.name] = (_module(maker.name), maker.op_type)
        todo.extend(maker.input[:1] if maker.op_type == "Resize" else maker.input)
    order = {one.name: index for index, one in enumerate(makers.values())}
    return tuple(found[name] for name in sorted(found, key=order.__getitem__))
