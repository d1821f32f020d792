import ctypes
import shlex
import sys
import types

import msgspec
import numpy as np
import pytest

from segdeploy.artifact.folder import write_artifact
from segdeploy.artifact.manifest import Bounds, Engine, Profile, Target
from segdeploy.base.errors import ArtifactError, BackendError, InputError, MissingExtraError
from segdeploy.base.machine import Gpu
from segdeploy.runtime import open_session
from segdeploy.runtime.backends import tensorrt as backend
from segdeploy.runtime.backends.tensorrt import check_target
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


def command_in(error):
    """The words of the command that an error's last part gives."""
    words = shlex.split(str(error).rsplit(": ", 1)[1])
    assert words[:3] == ["segdeploy", "export", "run/my best.pth"], words
    return words


@pytest.mark.parametrize(
    ("name", "built_on", "gpu", "version", "text", "target"),
    [
        ("tensorrt_rtx", None, Gpu("NVIDIA A10", "sm86"), "9.9", r"\(NVIDIA A10, sm86\); got one for sm89;", "sm86"),
        ("tensorrt_rtx", None, Gpu("NVIDIA H200", "sm90"), "9.9", r"this GPU \(NVIDIA H200, sm90\)", None),
        ("tensorrt_rtx", None, Gpu("NVIDIA B200", "sm8"), "9.9", "sm8", None),
        ("tensorrt_rtx", None, L4, "9.10", r"tensorrt_rtx 9\.10, which is installed here; got one made by 9\.9", "sm89"),
        ("tensorrt", "NVIDIA L4", L4, "9.10", r"tensorrt 9\.10, which is installed here", None),
        ("tensorrt", "NVIDIA L40S", L4, "9.9", r"\(NVIDIA L4, sm89\); got one for NVIDIA L40S, sm89", None),
    ],
)
def test_another_gpu_or_version(engine_manifest, name, built_on, gpu, version, text, target):
    """An engine for something else is refused before TensorRT sees it, with the command that builds the right one."""
    with pytest.raises(ArtifactError, match=text) as caught:
        check_target(engine_manifest(name=name, gpu=built_on), gpu, flavour(name, version))
    words = command_in(caught.value)
    assert words[words.index("--to") + 1] == "tensorrt"
    assert words[words.index("--profile") + 1] == "1x8x8:1x16x24:4x64x64"
    # Ahead of time where this flavour compiles for that GPU; else on the machine itself.
    assert ("--target" in words) == (target is not None)
    assert target is None or words[-2:] == ["--target", target]


def test_this_gpu_and_version(engine_manifest):
    """The right GPU and version pass, also as one of several targets, and on the very GPU that it was measured on."""
    check_target(engine_manifest(), L4, flavour())
    several = msgspec.structs.replace(engine_manifest(), target=Target(device="cuda", compute_capability="sm86,sm89"))
    check_target(several, L4, flavour())
    check_target(engine_manifest(name="tensorrt", gpu="NVIDIA L4"), L4, flavour("tensorrt"))


def test_an_engine_without_a_target(engine_manifest):
    """A manifest that names no GPU is not trusted to fit any."""
    with pytest.raises(ArtifactError, match="an unknown GPU"):
        check_target(msgspec.structs.replace(engine_manifest(), target=None), L4, flavour())


def test_a_manifest_without_profiles(trt, engine, engine_manifest):
    """A manifest that lost how its engine was compiled is one line, with the command."""
    with pytest.raises(ArtifactError, match="which shapes the engine was compiled for") as caught:
        open_session(engine(manifest=msgspec.structs.replace(engine_manifest(), engine=None)))
    assert "--profile" not in command_in(caught.value)


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
    with pytest.raises(ArtifactError, match="got not an engine of mine second line; build it again: segdeploy export"):
        open_session(engine(b"something else"))
    assert cuda_runtime.streams == 0


def test_no_memory_for_the_engine(trt, engine, cuda_runtime):
    """TensorRT gives no context where the GPU is full: an error that says so."""
    trt.full = True
    with pytest.raises(BackendError, match="enough GPU memory"):
        open_session(engine())
    assert cuda_runtime.streams == 0


def test_an_engine_unlike_its_manifest(fake_trt, engine, cuda_runtime):
    """An engine that does not take what its manifest says is found when it is opened, not in the middle of a run."""
    fake_trt("tensorrt_rtx", FIXED)
    with pytest.raises(ArtifactError, match=r"an engine that takes \[4, 64, 64, 3\], as its manifest says") as caught:
        open_session(engine())
    assert "--target" in command_in(caught.value)
    assert cuda_runtime.streams == 0
    assert not cuda_runtime.memory


SMALL = Profile(min=(1, 8, 8), opt=(1, 16, 24), max=(1, 20, 30))
BATCHES = Profile(min=(2, 16, 24), opt=(4, 16, 24), max=(8, 16, 24))


@pytest.mark.parametrize("name", ["tensorrt", "tensorrt_rtx"])
def test_each_shape_runs_in_its_profile(fake_trt, engine, engine_manifest, cuda_runtime, name):
    """The context is switched to the profile of the shape, only where it changes, and what comes out is right."""
    profiles = (SMALL, BATCHES, WIDE)
    trt = fake_trt(name, *profiles)
    axes = (Bounds(min=1, opt=1, max=8), Bounds(min=8, opt=16, max=64), Bounds(min=8, opt=24, max=64), 3)
    manifest = engine_manifest(*profiles, name=name)
    manifest = msgspec.structs.replace(manifest, input=msgspec.structs.replace(manifest.input, shape=axes))
    with open_session(engine(manifest=manifest)) as session:
        trt.calls.clear()
        reserved = list(cuda_runtime.events)
        for shape, profile in [((1, 16, 24), 0), ((1, 18, 24), 0), ((8, 16, 24), 1), ((3, 16, 24), 1), ((1, 60, 60), 2)]:
            images = noise(*shape)
            prediction = session.run(images, logits=True)
            mask, logits = expected(images)
            np.testing.assert_array_equal(prediction.mask, mask)
            np.testing.assert_allclose(prediction.logits, logits, rtol=1e-6)
            assert session._profile == profile
        assert trt.calls == [("profile", 0), ("profile", 1), ("profile", 2)]
        assert cuda_runtime.events == reserved, "a run allocated"


def test_a_shape_in_no_profile(fake_trt, engine, engine_manifest):
    """Within the range of every axis and yet in no profile: refused in one line that lists them, before TensorRT is asked."""
    trt = fake_trt("tensorrt_rtx", SMALL, BATCHES)
    manifest = engine_manifest(SMALL, BATCHES)
    with open_session(engine(manifest=manifest)) as session:
        trt.calls.clear()
        with pytest.raises(InputError, match="1x8x8:1x16x24:1x20x30, 2x16x24:4x16x24:8x16x24; got 2x18x24") as caught:
            session.run(noise(2, 18, 24))
        assert "\n" not in str(caught.value)
        assert not trt.calls
        assert trt.runs == 0


def fixed(engine_manifest, name):
    manifest = engine_manifest(FIXED, name=name)
    return msgspec.structs.replace(manifest, input=msgspec.structs.replace(manifest.input, shape=(2, 16, 24, 3)))


def test_a_fixed_shape_is_captured(fake_trt, engine, engine_manifest, cuda_runtime):
    """TensorRT with one shape: the first run is plain, the others launch its graph, and give what the images are."""
    trt = fake_trt("tensorrt", FIXED)
    with open_session(engine(manifest=fixed(engine_manifest, "tensorrt"))) as session:
        for seed in range(3):
            images = noise(2, 16, 24, seed=seed)
            prediction = session.run(images, logits=True)
            mask, logits = expected(images)
            np.testing.assert_array_equal(prediction.mask, mask)
            np.testing.assert_allclose(prediction.logits, logits, rtol=1e-6)
            assert cuda_runtime.events.count(("launch",)) == seed
            assert not cuda_runtime.queue
        assert trt.runs == 3
    assert not cuda_runtime.graphs
    assert not cuda_runtime.memory


def test_what_cannot_be_captured_runs_all_the_same(fake_trt, engine, engine_manifest, cuda_runtime):
    """Where TensorRT refuses the capture it is tried once, and every run is a plain one."""
    trt = fake_trt("tensorrt", FIXED)
    trt.capturable = False
    with open_session(engine(manifest=fixed(engine_manifest, "tensorrt"))) as session:
        for seed in range(3):
            images = noise(2, 16, 24, seed=seed)
            np.testing.assert_array_equal(session.run(images).mask, expected(images)[0])
        assert trt.runs == 3
    assert ("launch",) not in cuda_runtime.events


def test_several_shapes_are_not_captured(fake_trt, engine, engine_manifest, cuda_runtime):
    """A graph would hold the first shape for ever."""
    fake_trt("tensorrt", WIDE)
    with open_session(engine(manifest=engine_manifest(name="tensorrt"))) as session:
        for seed in range(3):
            session.run(noise(2, 16, 24, seed=seed))
    assert ("launch",) not in cuda_runtime.events


def test_rtx_captures_by_itself(fake_trt, engine, engine_manifest, cuda_runtime):
    """TensorRT-RTX is told to, for one shape only; nothing is captured here on top of it."""
    trt = fake_trt("tensorrt_rtx", FIXED)
    with open_session(engine(manifest=fixed(engine_manifest, "tensorrt_rtx"))) as session:
        session.run(noise(2, 16, 24))
        session.run(noise(2, 16, 24))
    assert trt.calls == [("context", "whole graph")]
    assert ("launch",) not in cuda_runtime.events
    trt = fake_trt()
    with open_session(engine()):
        assert trt.calls == [("context", None)]


def test_the_buffers_are_there_before_the_first_run(trt, engine, cuda_runtime):
    """Every buffer has the size of the largest shape from the start, and one that does not fit is said when opening."""
    with open_session(engine()):
        sizes = sorted(size for _, size in cuda_runtime.events)
        assert sizes == sorted([4 * 64 * 64, 4 * 64 * 64 * 3, 4 * 3 * 16 * 16 * 4])
    cuda_runtime.capacity = 4 * 64 * 64
    with pytest.raises(BackendError, match="enough GPU memory; got out of memory"):
        open_session(engine())
    assert not cuda_runtime.memory
    assert cuda_runtime.streams == 0


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
    artifact = built_here(checkpoint_path, tmp_path, largest="256x256")
    assert gpu.compute_capability in artifact.manifest.target.compute_capability.split(",")
    assert verify(artifact).verdict == "passed"


@pytest.mark.gpu
def test_a_real_engine_of_one_shape_on_a_gpu(gpu, checkpoint_path, tmp_path):
    """Launched as a CUDA graph it still agrees with the checkpoint, run after run."""
    artifact = built_here(checkpoint_path, tmp_path, static="64x96", batch="2")
    assert verify(artifact).verdict == "passed"
    with open_session(artifact) as session:
        first, again = (session.run(noise(2, 64, 96, seed=1), logits=True) for _ in range(2))
        other = session.run(noise(2, 64, 96, seed=2), logits=True)
        if artifact.manifest.toolchain.tensorrt_flavour == "tensorrt":
            assert session._graph
    np.testing.assert_array_equal(first.logits, again.logits)
    assert not np.array_equal(first.logits, other.logits)


@pytest.mark.gpu
def test_a_real_engine_of_several_profiles_on_a_gpu(gpu, checkpoint_path, tmp_path):
    """Each profile's shapes agree with the checkpoint, in turns."""
    artifact = built_here(checkpoint_path, tmp_path, profiles=("1x64x96", "2x64x64:2x96x96:4x128x128"))
    shapes = [(1, 64, 96), (4, 128, 64), (1, 64, 96), (2, 75, 111)]
    assert verify(artifact, shapes=shapes).verdict == "passed"


def built_here(checkpoint_path, folder, **shapes):
    from segdeploy.export.export import export_model
    from segdeploy.export.exporter import find_exporter
    from segdeploy.export.shapes import choose_shapes
    from segdeploy.models.checkpoint import load_checkpoint

    chosen = choose_shapes((64, 96), limits=find_exporter("tensorrt").limits, **shapes)
    checkpoint = load_checkpoint(checkpoint_path)
    try:
        return export_model(checkpoint, "tensorrt", folder / "engine", name="tiny", shapes=chosen)
    except BackendError as error:  # such as a GPU that only the other flavour compiles for
        pytest.skip(f"no engine can be built for this GPU: {error}")


def verify(artifact, **options):
    from segdeploy.parity.verify import verify as run

    return run(artifact, **options)
