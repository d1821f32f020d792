"""What the layers of mmseg's own model are given and make, on one image."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from segdeploy.runtime.backends.eager import EagerSession
from segdeploy.runtime.layer_run import LayerRun, logits_run


def eager_layers(session: EagerSession, images: NDArray[np.uint8]) -> list[LayerRun]:
    """Run the model and keep every layer's input and output, and the output of a batch norm right behind it.

    Args:
        session: of the reference.
        images: uint8 [N, H, W, 3].
    """
    from torch import nn

    weighted = (nn.modules.conv._ConvNd, nn.Linear)  # noqa: SLF001  torch's own base of all convolutions
    found: list[tuple[str, str, NDArray[Any], list[NDArray[Any]]]] = []
    last: dict[str, Any] = {}  # the tensor that the newest layer made: batch norm is folded only where it is given just that

    def keep(path: str, kind: str) -> Any:
        def hook(module: Any, given: Any, made: Any) -> None:
            del module
            found.append((path, kind, _host(given[0]), [_host(made)]))
            last["made"] = made

        return hook

    def fold(module: Any, given: Any, made: Any) -> None:
        del module
        if last.get("made") is given[0]:
            found[-1][3].append(_host(made))

    handles = []
    for path, module in session.model.named_modules():
        if isinstance(module, weighted):
            handles.append(module.register_forward_hook(keep(path, type(module).__name__)))
        elif isinstance(module, nn.modules.batchnorm._BatchNorm):  # noqa: SLF001  likewise
            handles.append(module.register_forward_hook(fold))
    try:
        logits = session.run(images, logits=True).logits
    finally:
        for handle in handles:
            handle.remove()
    assert logits is not None
    runs = [LayerRun(path, kind, given, tuple(made)) for path, kind, given, made in found]
    return [*runs, logits_run(logits, named=True)]


def _host(tensor: Any) -> NDArray[Any]:
    return np.array(tensor.detach().float().cpu().numpy())  # a copy: the next operation may write in place
