"""OpenVINO's IR (model.xml and model.bin), run by its CPU plug-in. Neither PyTorch, ONNX nor mmseg is needed."""

from __future__ import annotations

from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segdeploy.artifact.folder import Artifact
from segdeploy.artifact.manifest import Manifest
from segdeploy.artifact.rebuild import export_command
from segdeploy.base.capability import Capability, import_problem, named_versions
from segdeploy.base.errors import ArtifactError, BackendError, MissingExtraError
from segdeploy.base.machine import Gpu, cpu_flags, cpu_model
from segdeploy.runtime.backend import Backend
from segdeploy.runtime.session import Prediction, Staged, checked_images

# One of these instructions multiplies bfloat16 (Linux's names, x86 and Arm). OpenVINO itself takes any AVX-512 for enough, and
# emulates: slower than float32, and less exact.
_BF16_FLAGS = frozenset({"avx512_bf16", "amx_bf16", "bf16"})


class OpenVinoSession:
    """OpenVINO on the CPU."""

    def __init__(self, artifact: Artifact, device: str, threads: int) -> None:
        """Load and compile the model.

        Raises:
            BackendError: OpenVINO is missing, another device than the CPU was asked for, or the processor has no bfloat16.
            ArtifactError: OpenVINO refuses the model.
        """
        if device == "cuda":
            raise BackendError(
                expected="--device cpu for the openvino backend",
                got="--device cuda",
                fix=f"use --device cpu, or make one for the GPU: {export_command(artifact.manifest, 'onnx')}",
            )
        if artifact.manifest.inference_precision == "bf16":
            check_bf16()
        openvino = import_openvino("running OpenVINO artifacts")
        self.artifact = artifact
        self._tensor = openvino.Tensor
        path = artifact.model_path
        try:
            self._model: Any = openvino.Core().compile_model(str(path), "CPU", settings(artifact.manifest, threads))
        except RuntimeError as error:
            raise ArtifactError(
                expected=f"a model that OpenVINO {openvino.__version__} can load at '{path}'",
                got=str(error).strip().splitlines()[-1],
                fix="update openvino or export again",
            ) from error
        self._request: Any = self._model.create_infer_request()
        self._outputs = {name: index for index, port in enumerate(self._model.outputs) for name in port.names}

    @property
    def device(self) -> str:
        """Where it runs."""
        return "cpu"

    def run(self, images: NDArray[np.uint8], *, logits: bool = False) -> Prediction:
        """See ``Session.run``."""
        self.execute(self.stage(images))
        return Prediction(self._fetch("mask"), self._fetch("logits") if logits else None)

    def stage(self, images: NDArray[np.uint8]) -> Staged:
        """See ``Session.stage``: the batch is read where it lies."""
        images = checked_images(images, self.artifact.manifest)
        count, height, width, _ = images.shape
        return Staged((count, height, width), self._tensor(images, shared_memory=True))

    def execute(self, staged: Staged) -> None:
        """See ``Session.execute``."""
        self._request.set_input_tensor(staged.data)
        self._request.infer()

    def _fetch(self, name: str) -> NDArray[Any]:
        return np.array(self._request.get_output_tensor(self._outputs[name]).data)  # the next run writes over it

    def __enter__(self) -> OpenVinoSession:
        """See ``Session``."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Free the model."""
        self._request = self._model = None


def import_openvino(purpose: str) -> Any:
    """Import openvino, or say what to install.

    Raises:
        MissingExtraError: it is not installed.
    """
    try:
        import openvino
    except ModuleNotFoundError as error:
        raise MissingExtraError(package="openvino", extra="openvino", purpose=purpose) from error
    return openvino


def settings(manifest: Manifest, threads: int) -> dict[str, Any]:
    """What OpenVINO is told when it compiles a model."""
    return {
        # Left to itself it computes in bfloat16 where the processor has it: fp32 would not be fp32.
        "INFERENCE_PRECISION_HINT": manifest.inference_precision or "f32",
        "PERFORMANCE_HINT": "LATENCY",  # one stream, with all threads
        "INFERENCE_NUM_THREADS": threads,
        # Pinned, the threads of several processes would all sit on the same first cores.
        "ENABLE_CPU_PINNING": False,
    }


def check_bf16() -> None:
    """Refuse bfloat16 where the processor would only emulate it.

    Raises:
        BackendError: it has no such instructions.
    """
    if _BF16_FLAGS.isdisjoint(cpu_flags()):
        raise BackendError(
            expected="a processor with bfloat16 instructions (avx512_bf16, amx_bf16) for bf16",
            got=f"{cpu_model()}, which has none",
            fix="use --precision fp32 or int8",
        )


def _examine(gpu: Gpu | None) -> Capability:
    del gpu  # NVIDIA's, which OpenVINO does not use
    problem = import_problem("openvino")
    if problem:
        return Capability("run OpenVINO", works=False, found=problem, remedy="pip install 'segdeploy[openvino]'")
    bf16 = "no bf16" if _BF16_FLAGS.isdisjoint(cpu_flags()) else "bf16"
    return Capability("run OpenVINO", works=True, found=f"{named_versions(('openvino',))} on the CPU ({bf16})")


BACKEND = Backend(
    name="openvino",
    title="OpenVINO",
    extra="openvino",
    modules=("openvino",),
    packages=("openvino",),
    open=OpenVinoSession,
    examine=_examine,
)
