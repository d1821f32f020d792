import ctypes
import sys
import types

import msgspec
import numpy as np
import pytest

from segdeploy.core.artifact import write_artifact
from segdeploy.core.errors import ArtifactError, BackendError, InputError, MissingExtraError
from segdeploy.core.manifest import Bounds, Target
from segdeploy.core.tensorrt import Gpu
from segdeploy.runtime import open_session
from segdeploy.runtime import tensorrt as backend
from segdeploy.runtime.tensorrt import check_target

L4 = Gpu("NVIDIA L4", "sm89")


@pytest.fixture
def engine_manifest(make_manifest):
    base = make_manifest(format="tensorrt", target=Target(device="cuda", compute_capability="sm89"))
    tools = msgspec.structs.replace(base.toolchain, tensorrt="9.9", tensorrt_flavour="tensorrt_rtx")
    axes = (Bounds(min=1, opt=1, max=4), Bounds(min=8, opt=16, max=64), Bounds(min=8, opt=24, max=64), 3)
    lineage = msgspec.structs.replace(base.lineage, checkpoint="run/best.pth")
    return msgspec.structs.replace(
        base, toolchain=tools, lineage=lineage, input=msgspec.structs.replace(base.input, shape=axes)
    )


@pytest.mark.parametrize(
    ("gpu", "version", "words"),
    [
        (Gpu("NVIDIA H200", "sm90"), "9.9", r"this GPU \(NVIDIA H200, sm90\); got one for sm89"),
        (Gpu("NVIDIA B200", "sm8"), "9.9", "sm8"),
        (L4, "9.10", r"tensorrt_rtx 9\.10, which is installed here; got one made by 9\.9"),
    ],
)
def test_another_gpu_or_version(engine_manifest, gpu, version, words):
    """An engine for something else is refused before TensorRT sees it, with the command that builds the right one."""
    with pytest.raises(ArtifactError, match=words) as caught:
        check_target(engine_manifest, gpu, version)
    assert "segdeploy export run/best.pth --to tensorrt" in str(caught.value)


def test_this_gpu_and_version(engine_manifest):
    """The right GPU and version pass, also as one of several targets."""
    check_target(engine_manifest, L4, "9.9")
    several = msgspec.structs.replace(engine_manifest, target=Target(device="cuda", compute_capability="sm86,sm89"))
    check_target(several, L4, "9.9")


def test_an_engine_without_a_target(engine_manifest):
    """A manifest that names no GPU is not trusted to fit any."""
    with pytest.raises(ArtifactError, match="an unknown GPU"):
        check_target(msgspec.structs.replace(engine_manifest, target=None), L4, "9.9")


class Context:
    """Runs ``mask = red // 100, logits = [means of 4x4 cells]`` on the fake device's memory, when the stream gets to it."""

    def __init__(self, trt):
        self._trt = trt
        self._shape = None
        self._addresses = {}

    def set_input_shape(self, name, shape):
        assert name == "image"
        if max(shape) > self._trt.largest:
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
        if self._trt.fails:
            return False
        self._trt.cuda.queue.append(self._compute)
        return True

    def _array(self, name, dtype):
        shape = self.get_tensor_shape(name)
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        assert size <= len(self._trt.cuda.memory[self._addresses[name]])
        return np.frombuffer((ctypes.c_char * size).from_address(self._addresses[name]), dtype).reshape(shape)

    def _compute(self):
        self._trt.runs += 1
        image = self._array("image", np.uint8)
        self._array("mask", np.uint8)[:] = image[..., 0] // 100
        n, h, w, _ = image.shape
        cells = image[:, : h // 4 * 4, : w // 4 * 4].reshape(n, h // 4, 4, w // 4, 4, 3).mean((2, 4))
        self._array("logits", np.float32)[:] = cells.transpose(0, 3, 1, 2)


def expected(images):
    n, h, w, _ = images.shape
    cells = images[:, : h // 4 * 4, : w // 4 * 4].reshape(n, h // 4, 4, w // 4, 4, 3).mean((2, 4))
    return images[..., 0] // 100, cells.transpose(0, 3, 1, 2).astype(np.float32)


@pytest.fixture
def trt(cuda_runtime, monkeypatch):
    """A TensorRT-RTX without a GPU, and a machine that seems to have an L4."""

    class ILogger:
        ERROR, INTERNAL_ERROR = "error", "internal error"

        def __init__(self):
            pass

    class Runtime:
        def __init__(self, logger):
            self.logger = logger

        def deserialize_cuda_engine(self, data):
            if data != b"engine":
                self.logger.log(ILogger.ERROR, "not an engine of mine\nsecond line")
                return None
            return types.SimpleNamespace(create_execution_context=lambda: None if module.full else Context(module))

    module = types.ModuleType("tensorrt_rtx")
    module.__version__ = "9.9"
    module.ILogger, module.Runtime = ILogger, Runtime
    module.cuda, module.runs, module.fails, module.full, module.largest = cuda_runtime, 0, False, False, 64
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", module)
    monkeypatch.setattr(backend, "local_gpu", lambda: L4)
    return module


@pytest.fixture
def engine(tmp_path, engine_manifest):
    def write(content=b"engine"):
        def model(folder):
            (folder / "model.engine").write_bytes(content)
            return engine_manifest

        return write_artifact(tmp_path / "engine", model)

    return write


def noise(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (*shape, 3), dtype=np.uint8)


def test_run(trt, engine):
    """Batches of several sizes, larger and smaller in turn, give what the engine computes, waited for."""
    with open_session(engine()) as session:
        assert session.device == "cuda (NVIDIA L4)"
        for seed, shape in enumerate([(1, 16, 24), (4, 64, 64), (2, 33, 41), (1, 16, 24)]):
            images = noise(*shape, seed=seed)
            prediction = session.run(images, logits=True)
            mask, logits = expected(images)
            assert prediction.mask.dtype == np.uint8
            np.testing.assert_array_equal(prediction.mask, mask)
            np.testing.assert_allclose(prediction.logits, logits, rtol=1e-6)
        assert session.run(noise(1, 16, 24)).logits is None


def test_execute_is_finished_on_return(trt, engine, cuda_runtime):
    """Nothing is left on the stream after ``stage`` and after ``execute``: a clock around them measures the work."""
    with open_session(engine()) as session:
        staged = session.stage(noise(1, 16, 24))
        assert not cuda_runtime.queue
        session.execute(staged)
        session.execute(staged)
        assert not cuda_runtime.queue
        assert trt.runs == 2


def test_an_older_batch_is_not_confused_with_the_last(trt, engine):
    """Running a batch of another shape than the one that was staged last is caught, not computed on the wrong data."""
    with open_session(engine()) as session:
        old = session.stage(noise(1, 16, 24))
        session.stage(noise(2, 16, 24))
        with pytest.raises(AssertionError):
            session.execute(old)


def test_everything_is_freed(trt, engine, cuda_runtime):
    """After the block neither memory nor stream is left, also where it ends in an error."""
    with open_session(engine()) as session:
        session.run(noise(1, 16, 24))
    with pytest.raises(InputError), open_session(engine()) as session:
        session.run(noise(1, 16, 24))
        session.run(noise(9, 16, 24))
    assert not cuda_runtime.memory
    assert cuda_runtime.streams == 0


def test_an_engine_that_does_not_load(trt, engine, cuda_runtime):
    """TensorRT's own words, in one line, with the command that builds it here; the stream is given back."""
    with pytest.raises(ArtifactError, match="got not an engine of mine second line; build it here: segdeploy export"):
        open_session(engine(b"something else"))
    assert cuda_runtime.streams == 0


def test_no_memory_for_the_engine(trt, engine, cuda_runtime):
    """TensorRT gives no context where the GPU is full: an error that says so."""
    trt.full = True
    with pytest.raises(BackendError, match="GPU memory for the engine"):
        open_session(engine())
    assert cuda_runtime.streams == 0


def test_a_shape_outside_the_profile(trt, engine):
    """A shape that the manifest allows and the engine does not is said."""
    trt.largest = 20
    with open_session(engine()) as session, pytest.raises(ArtifactError, match="within the engine's profile"):
        session.run(noise(1, 16, 24))


def test_a_run_that_fails(trt, engine):
    """A failed launch is an error, not the memory's old content."""
    with open_session(engine()) as session:
        trt.fails = True
        with pytest.raises(BackendError, match="a finished run"):
            session.run(noise(1, 16, 24))


def test_on_the_cpu(trt, engine):
    """``--device cpu`` is not silently ignored."""
    with pytest.raises(BackendError, match="got --device cpu"):
        open_session(engine(), "cpu")


def test_the_other_flavour_is_no_substitute(trt, engine, monkeypatch):
    """An engine of TensorRT-RTX needs TensorRT-RTX."""
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", None)
    monkeypatch.setitem(sys.modules, "tensorrt", types.ModuleType("tensorrt"))
    with pytest.raises(MissingExtraError, match="tensorrt-rtx"):
        open_session(engine())


def test_without_cuda_bindings(trt, engine, monkeypatch):
    """Without cuda-python the package is named."""
    for name in ("cuda", "cuda.bindings", "cuda.bindings.runtime"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingExtraError, match="cuda-bindings"):
        open_session(engine())


def test_a_real_engine_without_a_gpu(tensorrt_artifact, no_gpu):
    """A real engine on a machine without a GPU is a BackendError of one line that names another way."""
    with pytest.raises(BackendError, match="an NVIDIA GPU.*none on this machine.*onnx backend"):
        open_session(tensorrt_artifact)


@pytest.mark.gpu
def test_a_real_engine_on_a_gpu(gpu, checkpoint_path, tmp_path):
    """An engine built here agrees with the checkpoint at every shape."""
    from segdeploy.core.checkpoint import load_checkpoint
    from segdeploy.export.export import export_model
    from segdeploy.export.shapes import choose_shapes
    from segdeploy.parity.verify import verify

    shapes = choose_shapes((64, 96), tensorrt=True, largest="256x256")
    artifact = export_model(load_checkpoint(checkpoint_path), "tensorrt", tmp_path / "engine", name="tiny", shapes=shapes)
    assert artifact.manifest.target.compute_capability == gpu.compute_capability
    assert verify(artifact).verdict == "passed"
