import sys
import types
import warnings

import pytest

from segdeploy.base.errors import BackendError, MissingExtraError
from segdeploy.runtime.backends.torch_device import device_name, import_torch, pick_device, synchronize


class FakeTorch:
    """As much of torch as a device needs."""

    def __init__(self, cuda):
        self.threads = None
        self.backends = types.SimpleNamespace(
            cudnn=types.SimpleNamespace(allow_tf32=True),
            cuda=types.SimpleNamespace(matmul=types.SimpleNamespace(allow_tf32=True)),
        )
        self.synchronized = []
        self.cuda = types.SimpleNamespace(
            is_available=lambda: cuda, get_device_name=lambda device: "NVIDIA L4", synchronize=self.synchronized.append
        )

    def set_num_threads(self, threads):
        self.threads = threads

    def device(self, kind):
        return types.SimpleNamespace(type=kind)


@pytest.mark.parametrize(
    ("cuda", "asked", "got"),
    [(True, "auto", "cuda"), (True, "cuda", "cuda"), (True, "cpu", "cpu"), (False, "auto", "cpu"), (False, "cpu", "cpu")],
)
def test_what_was_asked_for(cuda, asked, got):
    """The device that was asked for, the threads too; a GPU has a name, is waited for, and has TF32 off."""
    torch = FakeTorch(cuda)
    device = pick_device(torch, asked, 3)
    assert device.type == got
    assert torch.threads == 3
    assert device_name(torch, device) == ("cuda (NVIDIA L4)" if got == "cuda" else "cpu")
    tf32 = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    assert tf32 == ((False, False) if got == "cuda" else (True, True))
    synchronize(torch, device)
    assert len(torch.synchronized) == (got == "cuda")


def test_cuda_where_there_is_none():
    """CUDA that torch cannot see is an error."""
    with pytest.raises(BackendError, match="a CUDA device"):
        pick_device(FakeTorch(cuda=False), "cuda", 1)


def test_torch_knows_these_switches():
    """The real torch has both, and takes them without a warning."""
    torch = pytest.importorskip("torch")
    for place in (torch.backends.cudnn, torch.backends.cuda.matmul):
        assert isinstance(place.allow_tf32, bool)
        before = place.allow_tf32
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            place.allow_tf32 = False
        assert place.allow_tf32 is False
        place.allow_tf32 = before


def test_no_torch(monkeypatch):
    """Without torch the extra is named."""
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(MissingExtraError, match="eager backend"):
        import_torch("eager")
