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
from segdeploy.runtime.backends.torch_session import TorchSession
from segdeploy.runtime.layer_run import LayerRun


class TorchScriptSession(TorchSession):
    """PyTorch running a scripted graph."""

    def __init__(self, artifact: Artifact, device: str, threads: int) -> None:
        """Load the archive.

        Raises:
            BackendError: PyTorch is missing, or CUDA was asked for and there is none.
            ArtifactError: PyTorch refuses the archive.
        """
        super().__init__(artifact, device, threads)
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
