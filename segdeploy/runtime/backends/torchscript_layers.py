"""What the layers of a TorchScript archive are given and make, on one image.

The archive is frozen: it has no modules any more, only operations. Its layers come in the order in which they ran when it was
traced, which is that of the reference.
"""

from __future__ import annotations

import warnings

import numpy as np
from numpy.typing import NDArray

from segdeploy.artifact.folder import Artifact
from segdeploy.runtime.layer_run import LayerRun, logits_run

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
    for node in [node for node in nodes if node.kind() in _LAYERS]:
        # Copies: operations in place would change the values before the graph ends.
        given = graph.create("aten::clone", [list(node.inputs())[1 if node.kind() == "aten::addmm" else 0], nothing], 1)
        given.insertBefore(node)
        made = graph.create("aten::clone", [node.output(), nothing], 1)
        made.insertAfter(node)
        found.append(node.kind().removeprefix("aten::").lstrip("_"))
        graph.registerOutput(given.output())
        graph.registerOutput(made.output())
    graph.makeMultiOutputIntoTuple()
    function = torch._C._create_function_from_graph("layers", graph)  # noqa: SLF001  torch offers no public way
    with torch.inference_mode():
        values = function(module._c, torch.from_numpy(images))  # noqa: SLF001  the graph's own first input
    tensors = [value.float().numpy() for value in values[len(values) - 2 * len(found) :]]
    runs = [LayerRun("", op, tensors[2 * index], (tensors[2 * index + 1],)) for index, op in enumerate(found)]
    own = values[0] if isinstance(values[0], tuple) else values[: len(values) - 2 * len(found)]  # mask and logits
    return [*runs, logits_run(own[1].float().numpy(), named=False)]
