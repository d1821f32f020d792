import ctypes
import inspect

import numpy as np
import pytest

from segdeploy.base.errors import BackendError
from segdeploy.runtime.backends.cuda import Cuda


def test_round_trip(cuda_runtime):
    """What goes up comes down, byte for byte, in another shape and dtype if so asked."""
    values = np.random.default_rng(0).integers(0, 256, (3, 5, 4), dtype=np.uint8)
    cuda = Cuda()
    cuda.upload("x", values)
    np.testing.assert_array_equal(cuda.download("x", (3, 5, 4), np.dtype("uint8")), values)
    np.testing.assert_array_equal(cuda.download("x", (15,), np.dtype("float32")), values.view(np.float32).ravel())
    cuda.close()


def test_buffers_only_grow(cuda_runtime):
    """A smaller or equal array takes the buffer that is there; a larger one a new one, and the old one is freed."""
    cuda = Cuda()
    for size in (100, 50, 100, 200, 150):
        cuda.upload("x", np.zeros(size, np.uint8))
    assert cuda_runtime.events == [("malloc", 100), ("malloc", 200)]
    assert len(cuda_runtime.memory) == 1
    cuda.synchronize()
    cuda.reserve("y", (2, 3), np.dtype("float32"))
    assert cuda_runtime.events[-1] == ("malloc", 24)
    assert cuda.address("x") != cuda.address("y")
    cuda.close()


def test_close_frees_everything(cuda_runtime):
    """No buffer and no stream is left."""
    cuda = Cuda()
    for name in "abc":
        cuda.upload(name, np.zeros(10, np.uint8))
    cuda.synchronize()
    cuda.close()
    assert not cuda_runtime.memory
    assert cuda_runtime.streams == 0


def test_a_failed_growth_leaves_a_usable_state(cuda_runtime):
    """Out of memory is a BackendError in CUDA's own words; what follows still works, and closing frees all."""
    cuda = Cuda()
    cuda.upload("x", np.zeros(10, np.uint8))
    cuda_runtime.capacity = 50
    with pytest.raises(BackendError, match="enough GPU memory; got out of memory; .*smaller shapes"):
        cuda.upload("x", np.zeros(100, np.uint8))
    cuda.upload("x", np.zeros(20, np.uint8))
    cuda.synchronize()
    cuda.close()
    assert not cuda_runtime.memory


def test_an_invalid_copy(cuda_runtime):
    """A copy beyond its buffer is said, not returned as data."""
    cuda = Cuda()
    cuda.upload("x", np.zeros(10, np.uint8))
    with pytest.raises(BackendError, match="invalid argument"):
        cuda.download("x", (11,), np.dtype("uint8"))


def test_a_captured_graph_does_the_work_again(cuda_runtime):
    """Capturing runs nothing; each launch does all of it, on what the buffers then hold; closing frees the graph."""
    cuda = Cuda()
    cuda.upload("x", np.zeros(4, np.uint8))
    cuda.synchronize()
    address, done = cuda.address("x"), []

    def add_one():
        values = (ctypes.c_uint8 * 4).from_address(address)
        values[:] = [value + 1 for value in values]
        done.append(1)

    assert cuda.capture(lambda: cuda_runtime.enqueue(add_one) is None)
    assert not done
    for expected in (1, 2):
        cuda.launch()
        assert cuda.download("x", (4,), np.dtype("uint8")).tolist() == [expected] * 4
    assert len(cuda_runtime.graphs) == 1
    cuda.close()
    assert not cuda_runtime.graphs


@pytest.mark.parametrize("fault", ["it says so", "it waits", "no memory for the graph", "it raises"])
def test_what_cannot_be_captured(cuda_runtime, fault):
    """Work that fails while it is captured leaves no graph, no error behind, and a stream that works as before."""
    cuda = Cuda()
    if fault == "no memory for the graph":
        cuda_runtime.capacity = 0

    def enqueue():
        cuda_runtime.enqueue(lambda: pytest.fail("captured work ran"))
        if fault == "it waits":
            cuda_runtime.cudaStreamSynchronize(77)
        if fault == "it raises":
            raise ZeroDivisionError
        return fault != "it says so"

    if fault == "it raises":
        with pytest.raises(ZeroDivisionError):
            cuda.capture(enqueue)
    else:
        assert not cuda.capture(enqueue)
        assert not cuda_runtime.graphs
    assert cuda_runtime.recording is None
    assert cuda_runtime.last_error == 0
    cuda_runtime.capacity = 1 << 30
    cuda.upload("x", np.arange(4, dtype=np.uint8))
    assert cuda.download("x", (4,), np.dtype("uint8")).tolist() == [0, 1, 2, 3]
    cuda.close()
    assert cuda_runtime.streams == 0


def test_the_fake_is_like_the_real_one(cuda_runtime, monkeypatch):
    """Every call of the fake exists in cuda-python with as many arguments."""
    monkeypatch.undo()
    real = pytest.importorskip("cuda.bindings.runtime", reason="cuda-bindings is not installed")
    assert int(real.cudaMemcpyKind.cudaMemcpyHostToDevice) == 1
    assert int(real.cudaMemcpyKind.cudaMemcpyDeviceToHost) == 2
    assert int(real.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal) == 1
    assert int(real.cudaError_t.cudaErrorMemoryAllocation) == 2
    names = [name for name in dir(type(cuda_runtime)) if name.startswith("cuda") and callable(getattr(cuda_runtime, name))]
    for name in names:
        if not isinstance(getattr(cuda_runtime, name), type):
            wanted = len(inspect.signature(getattr(cuda_runtime, name)).parameters)
            declared = (getattr(real, name).__doc__ or "").split("\n", 1)[0]
            arguments = declared[declared.index("(") + 1 : declared.rindex(")")] if "(" in declared else None
            assert arguments is None or len([a for a in arguments.split(",") if a.strip()]) == wanted, declared


def test_a_machine_without_a_gpu(no_gpu):
    """The real cuda-python where there is no device: a BackendError that points to the doctor."""
    pytest.importorskip("cuda.bindings.runtime", reason="cuda-bindings is not installed")
    with pytest.raises(BackendError, match="segdeploy doctor"):
        Cuda()
