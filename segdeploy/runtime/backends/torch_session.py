"""What sessions of a graph that PyTorch runs have in common: a batch goes to the device, mask and logits come back."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segdeploy.artifact.folder import Artifact
from segdeploy.runtime.backends.torch_device import device_name, import_torch, pick_device, synchronize
from segdeploy.runtime.session import Prediction, Staged, checked_images


class TorchSession(ABC):
    """A deploy graph on a torch device; ``_forward`` runs it."""

    def __init__(self, artifact: Artifact, device: str, threads: int) -> None:
        """Choose the device.

        Raises:
            BackendError: PyTorch is missing, or CUDA was asked for and there is none.
        """
        self.artifact = artifact
        self._torch = import_torch(artifact.manifest.format)
        self._device = pick_device(self._torch, device, threads)

    @property
    def device(self) -> str:
        """Where it runs."""
        return device_name(self._torch, self._device)

    def run(self, images: NDArray[np.uint8], *, logits: bool = False) -> Prediction:
        """See ``Session.run``."""
        mask, raw = self._forward(self.stage(images).data)
        return Prediction(mask.cpu().numpy(), raw.cpu().numpy() if logits else None)

    def stage(self, images: NDArray[np.uint8]) -> Staged:
        """See ``Session.stage``."""
        images = checked_images(images, self.artifact.manifest)
        batch = self._torch.from_numpy(images).to(self._device)
        synchronize(self._torch, self._device)
        count, height, width, _ = images.shape
        return Staged((count, height, width), batch)

    def execute(self, staged: Staged) -> None:
        """See ``Session.execute``."""
        self._forward(staged.data)
        synchronize(self._torch, self._device)

    @abstractmethod
    def _forward(self, batch: Any) -> tuple[Any, Any]:
        """Mask and logits of uint8 [N, H, W, 3], all on the device."""
