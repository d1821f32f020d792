"""The network's stride: an image smaller than that leaves nothing to pool."""

from __future__ import annotations

import torch

from segdeploy.artifact.axes import bounds
from segdeploy.artifact.manifest import Manifest
from segdeploy.base.errors import InputError
from segdeploy.export.graph import DeployGraph


def check_smallest_side(graph: DeployGraph, manifest: Manifest, crop: tuple[int, int]) -> None:
    """Refuse a smallest height or width below the network's stride.

    Raises:
        InputError: names both.
    """
    stride = network_stride(graph, crop)
    low = [bounds(axis)[0] for axis in manifest.input.shape[1:3]]
    taken = manifest.preprocess.network_input(*low)  # where the model pads, a small image is none
    if stride is not None and min(taken) < stride:
        raise InputError(
            expected=f"heights and widths of at least {stride}, the network's stride",
            got=f"{low[0]}x{low[1]}",
            fix="pass a larger --shape or --min-shape",
        )


def network_stride(graph: DeployGraph, crop: tuple[int, int]) -> int | None:
    """By how much the backbone makes a side smaller at its deepest, measured without computing any values.

    Args:
        graph: on the CPU.
        crop: (H, W) that the network is known to take.

    Returns:
        None where the backbone's outputs are not feature maps, or torch cannot trace it so.
    """
    from torch._subclasses.fake_tensor import FakeTensorMode

    try:
        with torch.no_grad(), FakeTensorMode(allow_non_fake_inputs=True):
            features = graph.backbone(torch.zeros(1, 3, *crop))
    except Exception:  # noqa: BLE001  whatever an architecture does that cannot be traced: its export may still work
        return None
    maps = [one for one in (features if isinstance(features, (list, tuple)) else [features]) if getattr(one, "ndim", 0) == 4]
    return max((round(crop[0] / one.shape[2]) for one in maps), default=None)
