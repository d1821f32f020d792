"""TensorRT engines, run on their own CUDA stream with buffers that are allocated once. PyTorch is not needed."""

from __future__ import annotations

import importlib
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segdeploy.artifact.engine import choose_profile, has_fixed_shape, profile_text
from segdeploy.artifact.folder import Artifact
from segdeploy.artifact.manifest import Engine, Manifest
from segdeploy.artifact.rebuild import export_command
from segdeploy.base.capability import Capability, import_problem
from segdeploy.base.errors import ArtifactError, BackendError, InputError, MissingExtraError
from segdeploy.base.machine import Gpu, local_gpu
from segdeploy.runtime.backend import Backend
from segdeploy.runtime.backends.cuda import Cuda
from segdeploy.runtime.backends.tensorrt_flavour import Flavour, import_tensorrt, known_targets, messages
from segdeploy.runtime.session import Prediction, Staged, checked_images

_INPUT, _OUTPUTS = "image", ("mask", "logits")


class TensorRTSession:
    """TensorRT or TensorRT-RTX running an engine.

    Where the engine takes one shape only, its kernels are launched as one CUDA graph: TensorRT-RTX captures it itself, for
    TensorRT it is captured here after the first run. What cannot be captured runs as before.
    """

    def __init__(self, artifact: Artifact, device: str) -> None:
        """Deserialise the engine, and allocate what its largest shapes need.

        Raises:
            BackendError: there is no GPU, too little memory on it, or TensorRT is not installed.
            ArtifactError: the engine is for another GPU or another TensorRT.
        """
        manifest = artifact.manifest
        gpu = local_gpu()
        if gpu is None or device == "cpu":
            raise BackendError(
                expected=f"an NVIDIA GPU ({_made_for(manifest)}) to run a TensorRT engine",
                got="--device cpu" if device == "cpu" else "none on this machine",
                fix=f"run it on a machine with one, or make one for the onnx backend: {export_command(manifest, 'onnx')}",
            )
        flavour = import_tensorrt(prefer_rtx=False, only=manifest.toolchain.tensorrt_flavour)
        check_target(manifest, gpu, flavour)
        self._wanted = _engine_of(manifest, gpu, flavour)
        self.artifact = artifact
        self._gpu = gpu
        self._flavour = flavour
        self._context: Any = None
        self._engine: Any = None
        self._config: Any = None
        self._runtime: Any = None
        self._shape: tuple[int, ...] = ()  # that the context is set to
        self._profile = 0  # that every new context begins with
        # Whether there is a graph to launch; None: it is captured after the first run.
        self._graph: bool | None = None if flavour.name == "tensorrt" and has_fixed_shape(self._wanted) else False
        try:
            self._cuda = Cuda()
        except ModuleNotFoundError as error:
            extra = flavour.name.replace("_", "-")
            raise MissingExtraError(package="cuda-bindings", extra=extra, purpose="GPU memory") from error
        try:
            self._load()
            self._allocate()
        except BaseException:
            self.__exit__(None, None, None)
            raise

    def _load(self) -> None:
        flavour = self._flavour
        with messages(flavour.module) as log:
            self._log = log
            self._runtime = flavour.module.Runtime(log.logger)
            self._engine = self._runtime.deserialize_cuda_engine(self.artifact.model_path.read_bytes())
            if self._engine is None:
                raise ArtifactError(
                    expected=f"an engine that {flavour.name} {flavour.version} can load", got=log.last, fix=self._rebuild()
                )
            self._context = self._new_context()
            if self._context is None:
                raise BackendError(expected="enough GPU memory", got=log.last, fix="free some, or export for smaller shapes")

    def _new_context(self) -> Any:
        if self._flavour.name == "tensorrt" or not has_fixed_shape(self._wanted):
            return self._engine.create_execution_context()
        self._config = self._engine.create_runtime_config()
        self._config.cuda_graph_strategy = self._flavour.module.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
        return self._engine.create_execution_context(self._config)

    def _allocate(self) -> None:
        """Reserve the buffers for the largest shape of every profile, so that no run allocates."""
        for index, profile in enumerate(self._wanted.profiles):
            self._set_shape(index, (*profile.max, 3))

    def _set_shape(self, profile: int, shape: tuple[int, ...]) -> None:
        """Make the context expect a shape, and give it the buffers for it."""
        if (profile, shape) == (self._profile, self._shape):
            return
        self._shape = ()
        if profile != self._profile:
            if not self._context.set_optimization_profile_async(profile, self._cuda.stream):
                raise self._no_match(f"profile {profile}")
            self._cuda.synchronize()
            self._profile = profile
        if not self._context.set_input_shape(_INPUT, shape):
            raise self._no_match(str(list(shape)))
        for name in (_INPUT, *_OUTPUTS):
            self._cuda.reserve(name, self._tensor_shape(name), self._dtype(name))
            self._context.set_tensor_address(name, self._cuda.address(name))
        self._shape = shape

    def _no_match(self, what: str) -> ArtifactError:
        return ArtifactError(
            expected=f"an engine that takes {what}, as its manifest says", got=self._log.last, fix=self._rebuild()
        )

    def _rebuild(self) -> str:
        return _rebuild(self.artifact.manifest, self._gpu, self._flavour)

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
        manifest = self.artifact.manifest
        images = checked_images(images, manifest)
        count, height, width, _ = images.shape
        profile = choose_profile(self._wanted, (count, height, width))
        if profile is None:
            raise InputError(
                expected=f"NxHxW within a profile of {manifest.label}: {', '.join(map(profile_text, self._wanted.profiles))}",
                got=f"{count}x{height}x{width}",
                fix="resize the image, or export with another --profile",
            )
        self._set_shape(profile, images.shape)
        self._cuda.upload(_INPUT, images)
        self._cuda.synchronize()
        return Staged((count, height, width), images.shape)

    def execute(self, staged: Staged) -> None:
        """See ``Session.execute``. Runs the batch that was staged last; an older one is refused."""
        if self._shape != tuple(staged.data):
            raise AssertionError("a TensorRT session holds one staged batch at a time")
        if self._graph:
            self._cuda.launch()
        elif not self._enqueue():
            raise BackendError(expected="a finished run", got=self._log.last, fix="run: segdeploy doctor")
        self._cuda.synchronize()
        if self._graph is None:
            self._graph = self._cuda.capture(self._enqueue)

    def _enqueue(self) -> bool:
        return bool(self._context.execute_async_v3(self._cuda.stream))

    def _fetch(self, name: str) -> NDArray[Any]:
        return self._cuda.download(name, self._tensor_shape(name), self._dtype(name))

    def _tensor_shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._context.get_tensor_shape(name))

    def _dtype(self, name: str) -> np.dtype[Any]:
        manifest = self.artifact.manifest
        dtypes = {manifest.input.name: manifest.input.dtype, **{out.name: out.dtype for out in manifest.outputs}}
        return np.dtype(dtypes[name])

    def __enter__(self) -> TensorRTSession:
        """See ``Session``."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Free graph, buffers and stream, then the engine."""
        self._cuda.close()  # first: its graph launches the engine's kernels
        self._context = self._engine = self._config = self._runtime = None


def check_target(manifest: Manifest, gpu: Gpu, flavour: Flavour) -> None:
    """Refuse an engine that was compiled for something else, before TensorRT would with a code.

    Args:
        manifest: the engine's.
        gpu: of this machine.
        flavour: that is installed here.

    Raises:
        ArtifactError: with the command that makes one for this machine.
    """
    built_on = manifest.target.gpu if manifest.target else None
    if gpu.compute_capability not in _architectures(manifest) or built_on not in (None, gpu.name):
        raise ArtifactError(
            expected=f"an engine for this GPU ({gpu.name}, {gpu.compute_capability})",
            got=f"one for {_made_for(manifest)}",
            fix=_rebuild(manifest, gpu, flavour),
        )
    if manifest.toolchain.tensorrt != flavour.version:
        raise ArtifactError(
            expected=f"an engine made by {flavour.name} {flavour.version}, which is installed here",
            got=f"one made by {manifest.toolchain.tensorrt}",
            fix=_rebuild(manifest, gpu, flavour),
        )


def _engine_of(manifest: Manifest, gpu: Gpu, flavour: Flavour) -> Engine:
    if manifest.engine is None:
        raise ArtifactError(
            expected="a manifest that says which shapes the engine was compiled for",
            got="none of it",
            fix=_rebuild(manifest, gpu, flavour),
        )
    return manifest.engine


def _architectures(manifest: Manifest) -> list[str]:
    return ((manifest.target.compute_capability if manifest.target else None) or "").split(",")


def _made_for(manifest: Manifest) -> str:
    target = manifest.target
    names = (target.gpu, target.compute_capability) if target else ()
    return ", ".join(filter(None, names)) or "an unknown GPU"


def _rebuild(manifest: Manifest, gpu: Gpu, flavour: Flavour) -> str:
    """The command that makes such an engine for this GPU; ahead of time, on any machine, where the flavour can."""
    made_for = _architectures(manifest)
    wanted = made_for if gpu.compute_capability in made_for else [gpu.compute_capability]
    ahead = set(wanted) <= set(known_targets(flavour))
    return f"build it again: {export_command(manifest, 'tensorrt', wanted if ahead else ())}"


def _examine(gpu: Gpu | None) -> Capability:
    problems = {name: import_problem(name) for name in ("tensorrt", "tensorrt_rtx")}
    usable = [f"{name} {importlib.import_module(name).__version__}" for name, problem in problems.items() if not problem]
    problem = import_problem("cuda.bindings.runtime") if usable else problems["tensorrt"]
    if gpu is None:
        return Capability("run TensorRT", works=False, found="no NVIDIA GPU", remedy="an NVIDIA GPU with its driver")
    extra = "tensorrt" if problems["tensorrt_rtx"] else "tensorrt-rtx"
    remedy = f"pip install 'segdeploy[{extra}]'" if problem else ""
    return Capability("run TensorRT", not problem, problem or ", ".join(usable), remedy)


def _open(artifact: Artifact, device: str, threads: int) -> TensorRTSession:
    del threads  # the GPU's are its own
    return TensorRTSession(artifact, device)


BACKEND = Backend(
    name="tensorrt",
    title="TensorRT",
    extra="tensorrt",
    modules=("tensorrt", "cuda.bindings.runtime"),
    packages=("tensorrt", "tensorrt-rtx-cu13"),
    open=_open,
    examine=_examine,
)
