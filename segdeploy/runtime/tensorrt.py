"""TensorRT engines, run on their own CUDA stream with buffers that are kept. PyTorch is not needed."""

from __future__ import annotations

from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segdeploy.core.artifact import Artifact
from segdeploy.core.errors import ArtifactError, BackendError, MissingExtraError
from segdeploy.core.manifest import Manifest
from segdeploy.core.tensorrt import Flavour, Gpu, import_tensorrt, local_gpu, messages
from segdeploy.runtime.cuda import Cuda
from segdeploy.runtime.session import Prediction, Staged, checked_images

_INPUT, _OUTPUTS = "image", ("mask", "logits")


class TensorRTSession:
    """TensorRT or TensorRT-RTX running an engine."""

    def __init__(self, artifact: Artifact, device: str) -> None:
        """Deserialise the engine.

        Raises:
            BackendError: there is no GPU, or TensorRT is not installed.
            ArtifactError: the engine is for another GPU or another TensorRT.
        """
        manifest = artifact.manifest
        gpu = local_gpu()
        if gpu is None or device == "cpu":
            raise BackendError(
                expected="an NVIDIA GPU to run a TensorRT engine",
                got="--device cpu" if device == "cpu" else "none on this machine",
                fix="run it on a machine with one, or use the onnx backend",
            )
        flavour = import_tensorrt(prefer_rtx=False, only=manifest.toolchain.tensorrt_flavour)
        check_target(manifest, gpu, flavour.version)
        self.artifact = artifact
        self._gpu = gpu
        self._trt = flavour.module
        try:
            self._cuda = Cuda()
        except ModuleNotFoundError as error:
            extra = flavour.name.replace("_", "-")
            raise MissingExtraError(package="cuda-bindings", extra=extra, purpose="GPU memory") from error
        try:
            self._load(flavour)
        except BaseException:
            self._cuda.close()
            raise

    def _load(self, flavour: Flavour) -> None:
        manifest = self.artifact.manifest
        with messages(self._trt) as log:
            self._log = log
            self._runtime: Any = self._trt.Runtime(log.logger)
            self._engine: Any = self._runtime.deserialize_cuda_engine(self.artifact.model_path.read_bytes())
            if self._engine is None:
                raise ArtifactError(
                    expected=f"an engine that {flavour.name} {flavour.version} can load", got=log.last, fix=_rebuild(manifest)
                )
            self._context: Any = self._engine.create_execution_context()
            if self._context is None:
                raise BackendError(
                    expected="GPU memory for the engine", got=log.last, fix="free some, or export with a smaller --max-shape"
                )

    @property
    def device(self) -> str:
        """Where it runs."""
        return f"cuda ({self._gpu.name})"

    def run(self, images: NDArray[np.uint8], *, logits: bool = False) -> Prediction:
        """See ``Session.run``."""
        self.execute(self.stage(images))
        return Prediction(self._fetch("mask"), self._fetch("logits") if logits else None)

    def stage(self, images: NDArray[np.uint8]) -> Staged:
        """See ``Session.stage``."""
        images = checked_images(images, self.artifact.manifest)
        if not self._context.set_input_shape(_INPUT, images.shape):
            raise ArtifactError(
                expected="a shape within the engine's profile",
                got=str(list(images.shape)),
                fix=_rebuild(self.artifact.manifest),
            )
        self._cuda.upload(_INPUT, images)
        self._context.set_tensor_address(_INPUT, self._cuda.address(_INPUT))
        for name in _OUTPUTS:
            self._cuda.reserve(name, self._output_shape(name), self._output_dtype(name))
            self._context.set_tensor_address(name, self._cuda.address(name))
        self._cuda.synchronize()
        count, height, width, _ = images.shape
        return Staged((count, height, width), images.shape)

    def execute(self, staged: Staged) -> None:
        """See ``Session.execute``. Runs the batch that was staged last; an older one is refused."""
        if tuple(self._context.get_tensor_shape(_INPUT)) != tuple(staged.data):
            raise AssertionError("a TensorRT session holds one staged batch at a time")
        if not self._context.execute_async_v3(self._cuda.stream):
            raise BackendError(expected="a finished run", got=self._log.last, fix="run: segdeploy doctor")
        self._cuda.synchronize()

    def _fetch(self, name: str) -> NDArray[Any]:
        return self._cuda.download(name, self._output_shape(name), self._output_dtype(name))

    def _output_shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._context.get_tensor_shape(name))

    def _output_dtype(self, name: str) -> np.dtype[Any]:
        return np.dtype(next(out.dtype for out in self.artifact.manifest.outputs if out.name == name))

    def __enter__(self) -> TensorRTSession:
        """See ``Session``."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Free the engine, then its buffers and stream."""
        self._context = self._engine = self._runtime = None
        self._cuda.close()


def check_target(manifest: Manifest, gpu: Gpu, version: str) -> None:
    """Refuse an engine that was compiled for something else, before TensorRT would with a code.

    Raises:
        ArtifactError: with the command that makes one for this machine.
    """
    made_for = (manifest.target.compute_capability or "") if manifest.target else ""
    if gpu.compute_capability not in made_for.split(","):
        raise ArtifactError(
            expected=f"an engine for this GPU ({gpu.name}, {gpu.compute_capability})",
            got=f"one for {made_for or 'an unknown GPU'}",
            fix=_rebuild(manifest),
        )
    if manifest.toolchain.tensorrt != version:
        raise ArtifactError(
            expected=f"an engine made by {manifest.toolchain.tensorrt_flavour} {version}, which is installed here",
            got=f"one made by {manifest.toolchain.tensorrt}",
            fix=_rebuild(manifest),
        )


def _rebuild(manifest: Manifest) -> str:
    return f"build it here: segdeploy export {manifest.lineage.checkpoint or 'CHECKPOINT'} --to tensorrt"
