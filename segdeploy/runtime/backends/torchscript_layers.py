"""What the layers of a TorchScript archive are given and make, on one image.

The archive is frozen: it has no modules any more, only operations. Its layers come in the order in which they ran when it was
traced, which is that of the reference.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segdeploy.artifact.folder import Artifact
from segdeploy.runtime.layer_run import LayerRun, logits_run

_WHOLE = "convolution before upsampling"
_LAYERS = {"aten::_convolution", "aten::conv2d", "aten::linear", "aten::addmm"}


def torchscript_layers(artifact: Artifact, images: NDArray[np.uint8]) -> list[LayerRun]:
    """Run the archive's graph on the CPU with copies of every layer's input and output as outputs.

    Args:
        artifact: of format ``torchscript``.
        images: uint8 [N, H, W, 3].
    """
    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        module = torch.jit.load(str(artifact.model_path), map_location="cpu").eval()
    graph = module.inlined_graph.copy()
    nodes = list(graph.nodes())
    nothing = graph.insertConstant(None)
    nothing.node().moveBefore(nodes[0])
    found = []
    for node, whole in list(_layers(nodes)):
        # Copies: operations in place would change the values before the graph ends.
        # What a convolution before upsampling is given nobody sees; its place is taken by what it makes.
        source = node.output() if whole else list(node.inputs())[1 if node.kind() == "aten::addmm" else 0]
        given = graph.create("aten::clone", [source, nothing], 1)
        (given.insertAfter if whole else given.insertBefore)(node)
        made = graph.create("aten::clone", [node.output(), nothing], 1)
        made.insertAfter(node)
        found.append(_WHOLE if whole else node.kind().removeprefix("aten::").lstrip("_"))
        graph.registerOutput(given.output())
        graph.registerOutput(made.output())
    graph.makeMultiOutputIntoTuple()
    function = torch._C._create_function_from_graph("layers", graph)  # noqa: SLF001  torch offers no public way
    with torch.inference_mode():
        values = function(module._c, torch.from_numpy(images))  # noqa: SLF001  the graph's own first input
    tensors = [value.float().numpy() for value in values[len(values) - 2 * len(found) :]]
    runs = [
        LayerRun("", op, None if op == _WHOLE else tensors[2 * index], (tensors[2 * index + 1],))
        for index, op in enumerate(found)
    ]
    own = values[0] if isinstance(values[0], tuple) else values[: len(values) - 2 * len(found)]  # mask and logits
    return [*runs, logits_run(own[1].float().numpy(), named=False)]


def _layers(nodes: list[Any]) -> Iterator[tuple[Any, bool]]:
    """The layers' nodes; of a convolution that is done before the upsampling (``export/restructure``) the one that ends it."""
    products = [node for node in nodes if _is_column_product(node)]
    ends = [_only_sum(node) or node for node in products]
    for node in nodes:
        if node in products:
            yield ends[products.index(node)], True
        elif node.kind() in _LAYERS and not _goes_into(node, "aten::reshape", "aten::matmul") and _only_sum(node) not in ends:
            yield node, False


def _is_column_product(node: Any) -> bool:
    before = next(node.inputs()).node() if node.kind() == "aten::matmul" else None
    if before is None or before.kind() != "aten::cat":
        return False
    return all(one.node().kind() == "aten::matmul" for one in next(before.inputs()).node().inputs())


def _only_sum(node: Any) -> Any:
    users = [use.user for use in node.output().uses()]
    return users[0] if [one.kind() for one in users] == ["aten::add"] else None


def _goes_into(node: Any, *kinds: str) -> bool:
    for kind in kinds:
        users = [use.user for use in node.output().uses()]
        if [one.kind() for one in users] != [kind]:
            return False
        node = users[0]
    return True
