"""ONNX files, run by onnxruntime. Neither PyTorch nor mmseg is needed."""

from __future__ import annotations

from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segdeploy.artifact.folder import Artifact
from segdeploy.base.capability import Capability, import_problem
from segdeploy.base.errors import ArtifactError, BackendError, MissingExtraError
from segdeploy.base.machine import Gpu
from segdeploy.base.versions import version_of
from segdeploy.runtime.backend import Backend
from segdeploy.runtime.layer_run import LayerRun
from segdeploy.runtime.session import Prediction, Staged, checked_images

_MASK, _BOTH = ["mask"], ["mask", "logits"]


class OnnxSession:
    """onnxruntime on the CPU or through its CUDA provider."""

    def __init__(self, artifact: Artifact, device: str, threads: int) -> None:
        """Load the model.

        Raises:
            BackendError: onnxruntime is missing, or CUDA was asked for and its provider is not there.
            ArtifactError: onnxruntime refuses the model.
        """
        try:
            import onnxruntime
        except ModuleNotFoundError as error:
            raise MissingExtraError(package="onnxruntime", extra="onnx", purpose="running ONNX artifacts") from error
        self.artifact = artifact
        cuda = "CUDAExecutionProvider" in onnxruntime.get_available_providers()
        if device == "cuda" and not cuda:
            raise _no_cuda("an onnxruntime without the CUDA provider")
        # Its CUDA provider has TF32 on by default: fp16's error under the name of fp32.
        providers = [("CUDAExecutionProvider", {"use_tf32": "0"})] if cuda and device != "cpu" else []
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        # Its memory pattern is one block for all of a shape, beside what the arena holds since that shape's first run.
        options.enable_mem_pattern = False
        options.log_severity_level = 3  # errors only: its warnings speak of its own graph passes
        try:
            self._session: Any = onnxruntime.InferenceSession(
                str(artifact.model_path), options, providers=[*providers, "CPUExecutionProvider"]
            )
        except Exception as error:  # onnxruntime's exceptions have no common base but Exception
            raise ArtifactError(
                expected=f"a model that onnxruntime {onnxruntime.__version__} can load at '{artifact.model_path}'",
                got=str(error).splitlines()[0],
                fix="update onnxruntime or export again with a lower --opset",
            ) from error
        self._on_cuda = self._session.get_providers()[0] == "CUDAExecutionProvider"
        if device == "cuda" and not self._on_cuda:
            raise _no_cuda("a CUDA provider that did not load")
        self._ort = onnxruntime

    @property
    def device(self) -> str:
        """Where it runs."""
        return "cuda (onnxruntime)" if self._on_cuda else "cpu"

    def run(self, images: NDArray[np.uint8], *, logits: bool = False) -> Prediction:
        """See ``Session.run``."""
        images = checked_images(images, self.artifact.manifest)
        outputs = self._session.run(_BOTH if logits else _MASK, {"image": images})
        return Prediction(outputs[0], outputs[1] if logits else None)

    def stage(self, images: NDArray[np.uint8]) -> Staged:
        """See ``Session.stage``: binds the input and device-side outputs, so that ``execute`` copies nothing."""
        images = checked_images(images, self.artifact.manifest)
        device = "cuda" if self._on_cuda else "cpu"
        binding = self._session.io_binding()
        binding.bind_ortvalue_input("image", self._ort.OrtValue.ortvalue_from_numpy(images, device, 0))
        for name in _BOTH:
            binding.bind_output(name, device, 0)
        binding.synchronize_inputs()
        count, height, width, _ = images.shape
        return Staged((count, height, width), binding)

    def execute(self, staged: Staged) -> None:
        """See ``Session.execute``."""
        self._session.run_with_iobinding(staged.data)
        staged.data.synchronize_outputs()

    def __enter__(self) -> OnnxSession:
        """See ``Session``."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Free the model."""
        self._session = None


def _no_cuda(got: str) -> BackendError:
    return BackendError(
        expected="onnxruntime with its CUDA provider",
        got=got,
        fix="use --device cpu, or: pip uninstall onnxruntime && pip install 'segdeploy[onnx-gpu]'",
    )


def _examine(gpu: Gpu | None) -> Capability:
    purpose = "run ONNX"
    problem = import_problem("onnxruntime")
    if problem:
        return Capability(purpose, works=False, found=problem, remedy="pip install 'segdeploy[onnx]'")
    import onnxruntime

    providers = [name.removesuffix("ExecutionProvider") for name in onnxruntime.get_available_providers()]
    idle = gpu is not None and "CUDA" not in providers
    both = version_of("onnxruntime") and version_of("onnxruntime-gpu")
    remedy = "for the GPU: pip uninstall onnxruntime, then pip install 'segdeploy[onnx-gpu]'" if idle else ""
    if both:
        remedy = "onnxruntime and onnxruntime-gpu own the same files: pip uninstall both, install one"
    return Capability(purpose, not both, f"onnxruntime {onnxruntime.__version__} on {', '.join(providers)}", remedy)


def _layers(artifact: Artifact, images: NDArray[np.uint8]) -> list[LayerRun]:
    from segdeploy.runtime.backends.onnx_layers import onnx_layers

    return onnx_layers(artifact, images)


BACKEND = Backend(
    name="onnx",
    title="ONNX",
    extra="onnx",
    modules=("onnxruntime",),
    packages=("onnxruntime", "onnxruntime-gpu"),
    open=OnnxSession,
    layers=_layers,
    examine=_examine,
)
