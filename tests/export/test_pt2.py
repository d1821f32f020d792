import platform

import numpy as np
import pytest
import torch

from segdeploy.artifact.manifest import Bounds
from segdeploy.base.errors import BackendError, ExportError
from segdeploy.export import pt2
from segdeploy.export.exporter import check_export
from segdeploy.export.options import Options
from segdeploy.export.pt2 import write_pt2
from segdeploy.export.rewrites import Demands


@pytest.fixture
def small(make_manifest):
    """A manifest whose H and W have the given bounds."""
    from segdeploy.artifact.manifest import InputSpec

    def make(**side):
        axes = (Bounds(min=1, opt=1, max=4), Bounds(**side), Bounds(**side), 3)
        return make_manifest(format="pt2", input=InputSpec(name="image", dtype="uint8", layout="NHWC", shape=axes))

    return make


def test_runs_without_segdeploy(pt2_artifact, eager):
    """The package alone, loaded by torch's own function, takes uint8 RGB and gives mask and logits."""
    package = torch._inductor.aoti_load_package(str(pt2_artifact.model_path))
    image = np.random.default_rng(0).integers(0, 256, (2, 70, 50, 3), dtype=np.uint8)
    mask, logits = package(torch.tensor(image))
    expected = eager.run(image, logits=True)
    assert mask.dtype == torch.uint8
    np.testing.assert_allclose(logits.numpy(), expected.logits, atol=1e-4)
    assert (mask.numpy() != expected.mask).sum() <= 1


def test_what_it_is_bound_to(pt2_artifact):
    """The device, the architecture and torch's version are in the manifest; this fixture's code asks for no vectors."""
    manifest = pt2_artifact.manifest
    assert (manifest.target.device, manifest.target.cpu) == ("cpu", platform.machine())
    assert manifest.toolchain.torch == torch.__version__.split("+")[0]
    assert [entry.path for entry in manifest.files] == ["model.pt2"]


def test_the_threads_are_chosen_when_it_runs(pt2_artifact):
    """The number of threads of the export is not in the code."""
    import zipfile

    with zipfile.ZipFile(pt2_artifact.model_path) as package:
        sources = [package.read(name).decode() for name in package.namelist() if name.endswith(".kernel.cpp")]
    assert sources
    assert not [source for source in sources if "num_threads(1)" in source]


def test_no_compiler(monkeypatch):
    """It is said when the format is named, before a checkpoint is opened."""
    monkeypatch.setattr(pt2, "cpp_compiler", lambda: None)
    with pytest.raises(BackendError, match=r"a C\+\+ compiler.*got none on this machine; .*g\+\+.*--to onnx"):
        check_export("pt2", Options())


@pytest.mark.parametrize(
    ("targets", "words"),
    [(("sm89",), "--target cpu or --target cuda for pt2; got sm89"), (("cpu", "cuda"), "got cpu, cuda")],
)
def test_a_target_that_it_has_not(small, tmp_path, targets, words):
    """GPU architectures are TensorRT's; a package is for one device."""
    with pytest.raises(BackendError, match=words):
        write_pt2(torch.nn.Identity(), small(min=32, opt=64, max=128), tmp_path, Options(targets=targets))


def test_cuda_where_there_is_none(small, tmp_path, no_gpu):
    """A package for a GPU is made on one."""
    with pytest.raises(BackendError, match="a CUDA device to compile"):
        write_pt2(torch.nn.Identity(), small(min=32, opt=64, max=128), tmp_path, Options(targets=("cuda",)))


class Tied(torch.nn.Module):
    """Works for the example's height only, or for squares only."""

    demands = Demands()

    def __init__(self, how):
        super().__init__()
        self.how = how
        self.weight = torch.nn.Parameter(torch.ones(90))

    def forward(self, image):
        x = image.float()
        x = x * self.weight[None, :, None, None] if self.how == "example" else x + x.transpose(1, 2)
        return x.argmax(3), x.permute(0, 3, 1, 2)


def test_an_axis_that_is_tied(small, tmp_path):
    """torch.export would fix the height to the example's without a word: here it is an error."""
    with pytest.raises(ExportError, match=r"can vary on their own; got N = \w+, H = 90, W = "):
        write_pt2(Tied("example"), small(min=32, opt=64, max=256), tmp_path, Options())
    assert not list(tmp_path.iterdir())


def test_what_is_wrong_at_the_smallest_shape(small):
    """Where torch.export narrowed an axis, the end that it was not told of is compared."""
    manifest = small(min=32, opt=64, max=128)

    def graph(image):
        return None, image.float()

    pt2._check_smallest(graph, graph, manifest, "cpu")
    for wrong in (lambda image: (None, image.float() + 1), lambda image: (None, image.float() * torch.nan)):
        with pytest.raises(ExportError, match="at the smallest shape, 1x32x32; got .*--min-shape"):
            pt2._check_smallest(graph, wrong, manifest, "cpu")


def test_the_smallest_shape_is_looked_at_where_an_axis_was_narrowed(small, tmp_path, monkeypatch):
    """A package that is wrong there alone is not written; the compiler is left out, what is asked of its package is not."""
    import torch._inductor as inductor

    class Plain(torch.nn.Module):
        demands = Demands()

        def forward(self, image):
            x = image.float().permute(0, 3, 1, 2)
            return x.argmax(1), x

    class Package:
        def __call__(self, image):
            logits = image.float().permute(0, 3, 1, 2)
            return None, logits + (1 if image.shape[1] == 32 else 0)

        def get_metadata(self):
            return {"AOTI_MACHINE": "x86_64", "AOTI_CPU_ISA": "AVX2"}

    monkeypatch.setattr(inductor, "aoti_compile_and_package", lambda *_, **__: None)
    monkeypatch.setattr(inductor, "aoti_load_package", lambda _: Package())
    captured = pt2._captured
    for narrowed in (True, False):
        monkeypatch.setattr(pt2, "_captured", lambda *given, now=narrowed: (captured(*given)[0], now))
        manifest = small(min=32, opt=64, max=128)
        if narrowed:
            with pytest.raises(ExportError, match="at the smallest shape, 1x32x32"):
                write_pt2(Plain(), manifest, tmp_path, Options())
        else:
            assert write_pt2(Plain(), manifest, tmp_path, Options()).target.cpu == "x86_64 AVX2"
