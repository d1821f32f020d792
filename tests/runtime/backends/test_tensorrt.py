import shlex
import sys
import types

import msgspec
import numpy as np
import pytest

from segdeploy.artifact.manifest import Target
from segdeploy.base.errors import ArtifactError, BackendError, InputError, MissingExtraError
from segdeploy.base.machine import Gpu
from segdeploy.runtime import open_session
from segdeploy.runtime.backends.tensorrt import check_target
from support.fake_tensorrt import FIXED, L4, expected, flavour, noise


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
