import types

import numpy as np
import pytest

from segdeploy.base.errors import BackendError
from segdeploy.bench import run
from segdeploy.bench.candidates import choose_candidates
from segdeploy.bench.process import WorkerProcess
from segdeploy.bench.result import BenchSettings
from segdeploy.bench.run import Missing, bench
from segdeploy.bench.variants import Variant, adapt, variation_of

torch = pytest.importorskip("torch")


class Session:
    """An eager session of a model with a backbone, a neck and two heads."""

    def __init__(self, device="cpu"):
        self.device = device
        self.model = torch.nn.Module()
        self.model.backbone, self.model.neck = torch.nn.Conv2d(3, 4, 3), torch.nn.Conv2d(4, 4, 1)
        self.model.decode_head = torch.nn.ModuleList([torch.nn.Conv2d(4, 2, 1), torch.nn.Conv2d(4, 2, 1)])
        self.model.with_neck = True


def test_channels_last_is_of_the_weights():
    """A convolution's output follows its weights' layout."""
    session = Session()
    adapt(session, "channels_last")
    assert session.model.backbone(torch.zeros(1, 3, 8, 8)).is_contiguous(memory_format=torch.channels_last)


def test_compile_is_of_every_part_that_mmseg_calls(monkeypatch):
    """The heads' forward too, which mmseg does not call through the module."""
    compiled = []
    monkeypatch.setattr(torch, "compile", lambda call: compiled.append(call.__self__) or call)
    session = Session()
    adapt(session, "compile")
    model = session.model
    assert compiled == [model.backbone, model.neck, *model.decode_head]
    assert all("forward" in vars(part) for part in compiled)


def test_tf32_needs_cuda_and_sets_both_switches(monkeypatch):
    """Without a GPU it is refused, rather than a row that says what is not so."""
    with pytest.raises(BackendError, match="CUDA device for TF32; got cpu"):
        adapt(Session(), "tf32")
    matmul, cudnn = types.SimpleNamespace(allow_tf32=False), types.SimpleNamespace(allow_tf32=False)
    monkeypatch.setattr(torch.backends.cuda, "matmul", matmul)
    monkeypatch.setattr(torch.backends, "cudnn", cudnn)
    adapt(Session("cuda (some GPU)"), "tf32")
    assert matmul.allow_tf32
    assert cudnn.allow_tf32


def test_the_cpu_variation_is_opened_on_the_cpu(tiny_artifact, monkeypatch):
    """Whatever device was asked for."""
    asked = []
    monkeypatch.setattr(WorkerProcess, "_ask", lambda self, request, expected: asked.append(request))
    artifact = tiny_artifact()
    with WorkerProcess(["true"]) as worker:
        worker.open(Variant(artifact.folder, artifact.manifest, "cpu"), "auto", 1)
        worker.open(artifact, "auto", 1)
    assert [(one.device, one.variation) for one in asked] == [("cpu", "cpu"), ("auto", None)]


def test_a_named_variation_is_a_row_of_its_own(tiny_artifact):
    """Its reference is missing like the plain one's; without the plain one it stands alone."""
    both = choose_candidates([tiny_artifact()], ["eager", "eager-compile", "onnx"])
    assert [variation_of(one) if not isinstance(one, Missing) else one.variation for one in both] == [None, "compile", None]
    assert len(choose_candidates([tiny_artifact()], ["eager-compile"])) == 1
    rows = bench(both[1:2], BenchSettings(iterations=1)).rows
    assert [(row.label, row.status, row.parity) for row in rows] == [("eager-compile", "not run", "not verified")]


def test_eager_variations_are_measured_and_the_work_is_counted(checkpoint_path, monkeypatch):
    """Channels last is a row beside eager; the multiplications are counted on eager, and are those of its convolutions."""
    from segdeploy.runtime.open import eager_artifact

    monkeypatch.setattr(run, "measure_peaks", lambda threads, device: ())
    eager = eager_artifact(checkpoint_path)
    settings = BenchSettings(
        shapes=((32, 48),), batch=2, iterations=1, warmup=0, min_time_s=0, threads=1, device="cpu", peak=True
    )
    rows = bench([eager, Variant(eager.folder, eager.manifest, "channels_last")], settings).rows
    assert [(row.label, row.status) for row in rows] == [("eager", "measured"), ("eager-channels_last", "measured")]
    assert rows[0].gmac == pytest.approx(2 * _multiplications(checkpoint_path, 32, 48) / 1e9, rel=1e-6)
    assert rows[1].gmac is None
    assert [row.parity for row in rows] == ["reference", "not verified"]


def _multiplications(checkpoint, height, width):
    """Of every convolution, from the shapes that go through it."""
    from segdeploy.models.build import build_model
    from segdeploy.models.checkpoint import load_checkpoint

    model = build_model(load_checkpoint(checkpoint))
    total = 0

    def count(module, inputs, output):
        nonlocal total
        total += int(np.prod(output.shape)) * module.in_channels // module.groups * int(np.prod(module.kernel_size))

    for module in model.modules():
        if isinstance(module, torch.nn.Conv2d):
            module.register_forward_hook(count)
    with torch.inference_mode():
        model(torch.zeros(1, 3, height, width), mode="tensor")
    return total
