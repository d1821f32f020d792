"""The deploy graph: the one contract that all formats share.

Axes: N images, H and W of the input, K classes, h and w of the decode head's output.

    in   image   uint8   [N, H, W, 3]   RGB, as decoded; normalisation is inside the graph
    out  mask    uint8   [N, H, W]      labels at the input's size (int32 where there are more than 256 classes)
    out  logits  float32 [N, K, h, w]   the decode head's output before upsampling
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensorMode,
    UnsupportedFakeTensorException,
    UnsupportedOperatorException,
)
from torch.nn import functional

from segdeploy.artifact.axes import bounds
from segdeploy.artifact.manifest import Manifest
from segdeploy.export.restructure import deferring, restructure
from segdeploy.export.restructure.find import Found, find
from segdeploy.export.rewrites import ExactOps, rewrite


class DeployGraph(nn.Module):
    """An mmseg EncoderDecoder with its preprocessing before it and the reduction to labels behind it."""

    def __init__(self, model: Any, manifest: Manifest, *, restructured: bool = True) -> None:
        """Take the model over: what exporters get wrong is replaced in place, and convolutions are done before upsampling.

        Args:
            model: an ``EncoderDecoder`` or ``CascadeEncoderDecoder`` in eval mode.
            manifest: its preprocessing and postprocessing, and the size of image that it is for.
            restructured: convolve before upsampling, where that holds and pays.
        """
        super().__init__()
        self.demands = rewrite(model)  # of the example that it is traced with
        self.backbone = model.backbone
        self.neck = model.neck if getattr(model, "with_neck", False) else nn.Identity()
        self.decode_head = model.decode_head
        self.align_corners = manifest.postprocess.align_corners
        self.cutoff = manifest.postprocess.cutoff
        self.pad = manifest.preprocess.pad
        self.mask_dtype = torch.uint8 if len(manifest.classes) <= 256 else torch.int32
        self.swap_channels = manifest.preprocess.color == "bgr"
        self.register_buffer("mean", torch.tensor(manifest.preprocess.mean).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(manifest.preprocess.std).view(1, 3, 1, 1))
        self._deferred: frozenset[int] = frozenset()
        found = self._found(manifest) if restructured else []
        self._deferred = restructure(self, found)
        self.restructured = tuple(one.path for one in found)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Segment a batch.

        Args:
            image: uint8 [N, H, W, 3] RGB.

        Returns:
            mask [N, H, W] and logits float32 [N, K, h, w].
        """
        # TensorRT takes a uint8 input only if a cast is the first thing that touches it.
        pixels = image.float().permute(0, 3, 1, 2)
        if self.swap_channels:
            pixels = pixels.flip(1)
        inputs = self._padded((pixels - self.mean) / self.std)
        logits = self._logits(inputs)
        full = functional.interpolate(logits, size=inputs.shape[2:], mode="bilinear", align_corners=self.align_corners)
        if self.pad is not None:
            full = full[:, :, : image.shape[1], : image.shape[2]]
        mask = full.argmax(1) if self.cutoff is None else full[:, 0] > self.cutoff
        return mask.to(self.mask_dtype), logits

    def _logits(self, inputs: Tensor) -> Tensor:
        with ExactOps(), deferring(self._deferred):
            return self._decode(self.neck(self.backbone(inputs)))

    def _found(self, manifest: Manifest) -> list[Found]:
        """The convolutions that are worth it at the size that the manifest is made for."""
        height, width = manifest.preprocess.network_input(*(bounds(axis)[1] for axis in manifest.input.shape[1:3]))
        try:
            with torch.no_grad(), FakeTensorMode(allow_non_fake_inputs=True):
                return find(self, lambda: self._logits(torch.zeros(1, 3, height, width)))
        except RuntimeError as error:
            if not _asks_for_values(error):
                raise
            return []  # such an architecture stays as it is

    def _padded(self, inputs: Tensor) -> Tensor:
        if self.pad is None:
            return inputs
        height, width = inputs.shape[2:]
        if self.pad.size is not None:
            below, right = (torch.sym_max(want - have, 0) for want, have in zip(self.pad.size, (height, width), strict=True))
        else:
            step = self.pad.divisor
            below, right = ((have + step - 1) // step * step - have for have in (height, width))
        return functional.pad(inputs, (0, right, 0, below), value=self.pad.value)

    def _decode(self, features: Any) -> Tensor:
        if not isinstance(self.decode_head, nn.ModuleList):
            out = self.decode_head(features)
        else:
            out = self.decode_head[0](features)
            for head in self.decode_head[1:]:
                out = head(features, out)
        # Of a head with auxiliary outputs the first counts.
        logits: Tensor = out[0] if isinstance(out, tuple) else out
        return logits


def _asks_for_values(error: RuntimeError) -> bool:
    """Whether an architecture needs values to run at all: what torch says where tensors have none."""
    kinds = (
        DataDependentOutputException,
        DynamicOutputShapeException,
        UnsupportedFakeTensorException,
        UnsupportedOperatorException,
        NotImplementedError,  # a compiled operation that says nothing of its output's shape
    )
    words = ("not supported for tensor subclasses", "Cannot access data pointer of Tensor")
    return isinstance(error, kinds) or any(one in str(error) for one in words)
