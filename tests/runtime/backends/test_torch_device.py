import sys
import types

import pytest

from segdeploy.base.errors import BackendError, MissingExtraError
from segdeploy.runtime.backends.torch_device import device_name, import_torch, pick_device, synchronize


class FakeTorch:
    """As much of torch as a device needs."""

    def __init__(self, cuda):
        self.threads = None
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
    """The device that was asked for, the threads too; a GPU's name is shown, and only a GPU is waited for."""
    torch = FakeTorch(cuda)
    device = pick_device(torch, asked, 3)
    assert device.type == got
    assert torch.threads == 3
    assert device_name(torch, device) == ("cuda (NVIDIA L4)" if got == "cuda" else "cpu")
    synchronize(torch, device)
    assert len(torch.synchronized) == (got == "cuda")


def test_cuda_where_there_is_none():
    """CUDA that torch cannot see is an error."""
    with pytest.raises(BackendError, match="a CUDA device"):
        pick_device(FakeTorch(cuda=False), "cuda", 1)


def test_no_torch(monkeypatch):
    """Without torch the extra is named."""
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(MissingExtraError, match="eager backend"):
        import_torch("eager")
