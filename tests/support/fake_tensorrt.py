"""A TensorRT without a GPU: an engine that computes on the fake CUDA's memory, when the stream gets to it."""

from __future__ import annotations

import ctypes
import sys
import types

import msgspec
import numpy as np
import pytest

from segdeploy.artifact.folder import write_artifact
from segdeploy.artifact.manifest import Bounds, Engine, Profile, Target
from segdeploy.base.machine import Gpu
from segdeploy.runtime.backends import tensorrt as backend
from segdeploy.runtime.backends.tensorrt_flavour import Flavour

L4 = Gpu("NVIDIA L4", "sm89")
WIDE = Profile(min=(1, 8, 8), opt=(1, 16, 24), max=(4, 64, 64))
FIXED = Profile(min=(2, 16, 24), opt=(2, 16, 24), max=(2, 16, 24))
CAPABILITIES = types.SimpleNamespace(__members__={"NONE": 0, "CURRENT": 1, "SM86": 2, "SM89": 3, "SM120": 4})


def flavour(name="tensorrt_rtx", version="9.9"):
    module = types.SimpleNamespace(ComputeCapability=CAPABILITIES) if name == "tensorrt_rtx" else types.SimpleNamespace()
    return Flavour(name, version, module)


@pytest.fixture
def engine_manifest(make_manifest):
    base = make_manifest(format="tensorrt", target=Target(device="cuda", compute_capability="sm89"))
    tools = msgspec.structs.replace(base.toolchain, tensorrt="9.9", tensorrt_flavour="tensorrt_rtx")
    axes = (Bounds(min=1, opt=1, max=4), Bounds(min=8, opt=16, max=64), Bounds(min=8, opt=24, max=64), 3)
    lineage = msgspec.structs.replace(base.lineage, checkpoint="run/my best.pth")
    whole = msgspec.structs.replace(
        base,
        toolchain=tools,
        lineage=lineage,
        engine=Engine(profiles=(WIDE,)),
        input=msgspec.structs.replace(base.input, shape=axes),
    )

    def make(*profiles, name="tensorrt_rtx", gpu=None):
        changed = msgspec.structs.replace(whole, engine=Engine(profiles=profiles)) if profiles else whole
        return msgspec.structs.replace(
            changed,
            toolchain=msgspec.structs.replace(tools, tensorrt_flavour=name),
            target=Target(device="cuda", compute_capability="sm89", gpu=gpu),
        )

    return make


class Context:
    """Runs ``mask = red // 100, logits = [means of 4x4 cells]`` on the fake device's memory, when the stream gets to it."""

    def __init__(self, trt, config):
        self._trt = trt
        self.config = config
        self._shape = None
        self._profile = trt.profiles[0]
        self._addresses = {}

    def set_optimization_profile_async(self, index, stream):
        assert stream == 77
        self._trt.calls.append(("profile", index))
        self._profile, self._shape = self._trt.profiles[index], None
        self._addresses.clear()
        return True

    def set_input_shape(self, name, shape):
        assert name == "image"
        low, high = self._profile
        if not all(a <= size <= b for a, size, b in zip(low, shape, high, strict=True)):
            return False
        self._shape = tuple(shape)
        return True

    def get_tensor_shape(self, name):
        n, h, w, _ = self._shape
        return {"image": self._shape, "mask": (n, h, w), "logits": (n, 3, h // 4, w // 4)}[name]

    def set_tensor_address(self, name, address):
        self._addresses[name] = address
        return True

    def execute_async_v3(self, stream):
        assert stream == 77
        if self._trt.fails or (self._trt.cuda.recording is not None and not self._trt.capturable):
            return False
        arrays = {name: self._array(name, dtype) for name, dtype in (("image", "u1"), ("mask", "u1"), ("logits", "f4"))}
        self._trt.cuda.enqueue(lambda: self._compute(**arrays))
        return True

    def _array(self, name, dtype):
        shape = self.get_tensor_shape(name)
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        assert size <= len(self._trt.cuda.memory[self._addresses[name]])
        return np.frombuffer((ctypes.c_char * size).from_address(self._addresses[name]), dtype).reshape(shape)

    def _compute(self, image, mask, logits):
        self._trt.runs += 1
        mask[:], logits[:] = expected(image)


def expected(images):
    n, h, w, _ = images.shape
    cells = images[:, : h // 4 * 4, : w // 4 * 4].reshape(n, h // 4, 4, w // 4, 4, 3).mean((2, 4))
    return images[..., 0] // 100, cells.transpose(0, 3, 1, 2).astype(np.float32)


@pytest.fixture
def fake_trt(cuda_runtime, monkeypatch):
    """Makes TensorRTs without a GPU, on a machine that seems to have an L4: (module's name, the engine's profiles)."""

    class ILogger:
        ERROR, INTERNAL_ERROR = "error", "internal error"

        def __init__(self):
            pass

    def make(name="tensorrt_rtx", *profiles):
        module = types.ModuleType(name)

        def new_context(config=None):
            module.calls.append(("context", config and config.cuda_graph_strategy))
            return None if module.full else Context(module, config)

        class Runtime:
            def __init__(self, logger):
                self.logger = logger

            def deserialize_cuda_engine(self, data):
                if data != b"engine":
                    self.logger.log(ILogger.ERROR, "not an engine of mine\nsecond line")
                    return None
                return types.SimpleNamespace(
                    create_execution_context=new_context,
                    create_runtime_config=lambda: types.SimpleNamespace(cuda_graph_strategy="disabled"),
                )

        module.__version__ = "9.9"
        module.ILogger, module.Runtime = ILogger, Runtime
        if name == "tensorrt_rtx":
            module.ComputeCapability = CAPABILITIES
            module.CudaGraphStrategy = types.SimpleNamespace(WHOLE_GRAPH_CAPTURE="whole graph")
        module.cuda, module.runs, module.fails, module.full, module.capturable = cuda_runtime, 0, False, False, True
        module.profiles = [((*one.min, 3), (*one.max, 3)) for one in profiles or (WIDE,)]
        module.calls = []
        monkeypatch.setitem(sys.modules, name, module)
        monkeypatch.setattr(backend, "local_gpu", lambda: L4)
        return module

    return make


@pytest.fixture
def trt(fake_trt):
    """TensorRT-RTX with an engine of one wide profile."""
    return fake_trt()


@pytest.fixture
def engine(tmp_path, engine_manifest):
    def write(content=b"engine", manifest=None):
        def model(folder):
            (folder / "model.engine").write_bytes(content)
            return manifest or engine_manifest()

        return write_artifact(tmp_path / "engine", model)

    return write


def noise(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (*shape, 3), dtype=np.uint8)
