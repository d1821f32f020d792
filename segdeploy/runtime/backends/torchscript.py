"""TorchScript archives, run by PyTorch. mmseg is not needed."""

from __future__ import annotations

import warnings
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segdeploy.artifact.folder import Artifact
from segdeploy.base.errors import ArtifactError
from segdeploy.runtime.backend import Backend
from segdeploy.runtime.backends.torch_device import device_name, import_torch, pick_device, synchronize
from segdeploy.runtime.layer_run import LayerRun
from segdeploy.runtime.session import Prediction, Staged, checked_images


class TorchScriptSession:
    """PyTorch running a scripted graph."""

    def __init__(self, artifact: Artifact, device: str, threads: int) -> None:
        """Load the archive.

        Raises:
            BackendError: PyTorch is missing, or CUDA was asked for and there is none.
            ArtifactError: PyTorch refuses the archive.
        """
        self.artifact = artifact
        self._torch = import_torch("torchscript")
        self._device = pick_device(self._torch, device, threads)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # torch.jit is deprecated: the user chose the format knowingly
            try:
                self._module: Any = self._torch.jit.load(str(artifact.model_path), map_location=self._device).eval()
            except RuntimeError as error:
                raise ArtifactError(
                    expected=f"an archive that torch {self._torch.__version__} can load at '{artifact.model_path}'",
                    got=str(error).splitlines()[0],
                    fix="export it again with this version of torch",
                ) from error
            if self._device.type == "cpu":
                # Folds weights into oneDNN's own layout, at every load: the layout is this machine's, not the artifact's.
                self._module = self._torch.jit.optimize_for_inference(self._module)

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

    def _forward(self, batch: Any) -> tuple[Any, Any]:
        # The fusing profiler would specialise on the first shape and recompile on each new one: seconds for a new size.
        with self._torch.inference_mode(), self._torch.jit.optimized_execution(False):
            mask, logits = self._module(batch)
        return mask, logits

    def __enter__(self) -> TorchScriptSession:
        """See ``Session``."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Free the module."""
        self._module = None


def _layers(artifact: Artifact, images: NDArray[np.uint8]) -> list[LayerRun]:
    from segdeploy.runtime.backends.torchscript_layers import torchscript_layers

    return torchscript_layers(artifact, images)


BACKEND = Backend(
    name="torchscript",
    title="TorchScript",
    extra="train",
    modules=("torch",),
    packages=("torch",),
    open=TorchScriptSession,
    layers=_layers,
)
