import enum
import re
import types
from pathlib import Path

import msgspec
import pytest

from segdeploy.artifact.folder import open_artifact
from segdeploy.artifact.manifest import Engine, Profile
from segdeploy.base.errors import BackendError, ExportError, InputError
from segdeploy.base.files import sha256_file
from segdeploy.base.machine import Gpu
from segdeploy.export import export as making
from segdeploy.export import tensorrt as exporting
from segdeploy.export.export import export_model
from segdeploy.export.exporter import find_exporter
from segdeploy.export.options import Options
from segdeploy.export.shapes import Shapes, choose_shapes
from segdeploy.export.tensorrt import Plan, compile_engine, plan_build
from segdeploy.models.checkpoint import load_checkpoint
from segdeploy.runtime.backends import tensorrt_flavour as core
from segdeploy.runtime.backends.tensorrt_flavour import Flavour

trt = pytest.importorskip("tensorrt_rtx", reason="tensorrt_rtx, which compiles engines without a GPU, is not installed")

L4 = Gpu("NVIDIA L4", "sm89")
RTX = Flavour("tensorrt_rtx", trt.__version__, trt)


@pytest.fixture
def export(checkpoint_path, exported_before, tmp_path):
    """Exports the tiny checkpoint to TensorRT from the ONNX file that is there: (options, what choose_shapes takes)."""

    def run(options, **shapes):
        chosen = choose_shapes((64, 96), limits=find_exporter("tensorrt").limits, **shapes)
        folder = tmp_path / "engine"
        return export_model(load_checkpoint(checkpoint_path), "tensorrt", folder, name="x", shapes=chosen, options=options)

    return run


@pytest.fixture
def nothing_is_done(monkeypatch):
    """Fails where a model is built or exported."""
    monkeypatch.setattr(making, "build_model", lambda *_: pytest.fail("work was done"))
    monkeypatch.setattr(exporting, "write_onnx", lambda *_: pytest.fail("work was done"))


def test_a_real_engine_is_bound_to_its_target(tensorrt_artifact, onnx_artifact):
    """Compiled without a GPU: the manifest names GPU, version, profile and the ONNX file beside it that it came from."""
    manifest = open_artifact(tensorrt_artifact.folder).manifest
    assert manifest.format == "tensorrt"
    assert [entry.path for entry in manifest.files] == ["model.engine", "model.onnx"]
    assert manifest.files[0].bytes > 10_000
    assert (manifest.target.device, manifest.target.compute_capability, manifest.target.gpu) == ("cuda", "sm89", None)
    assert manifest.toolchain.tensorrt == trt.__version__
    assert manifest.toolchain.tensorrt_flavour == "tensorrt_rtx"
    assert manifest.lineage.parent_sha256 == sha256_file(tensorrt_artifact.folder / "model.onnx")
    assert manifest.lineage.checkpoint_sha256 == onnx_artifact.manifest.lineage.checkpoint_sha256
    assert manifest.engine == Engine(profiles=(Profile(min=(1, 32, 32), opt=(1, 64, 96), max=(4, 256, 256)),))
    assert sorted(path.name for path in tensorrt_artifact.folder.iterdir()) == ["manifest.json", "model.engine", "model.onnx"]


def test_the_onnx_file_beside_it_builds_an_engine(tensorrt_artifact):
    """With nothing but the artifact's folder: its ONNX file and its manifest compile for another GPU."""
    manifest = tensorrt_artifact.manifest
    engine = compile_engine(Plan(RTX, ("sm86",), None, None), tensorrt_artifact.folder / "model.onnx", manifest)
    assert abs(len(engine) / manifest.files[0].bytes - 1) < 0.5


def test_several_targets_and_profiles(export):
    """One engine for several architectures and shapes; the manifest has all of them in order, each target once."""
    options = Options(targets=("SM120, sm89", "sm86", "sm89"), workspace_bytes=64 << 20)
    manifest = export(options, profiles=("1x64x96", "2x32x32:2x64x64:4x128x128")).manifest
    assert manifest.target.compute_capability == "sm120,sm89,sm86"
    first, second = manifest.engine.profiles
    assert first == Profile(min=(1, 64, 96), opt=(1, 64, 96), max=(1, 64, 96))
    assert second == Profile(min=(2, 32, 32), opt=(2, 64, 64), max=(4, 128, 128))
    assert [(axis.min, axis.opt, axis.max) for axis in manifest.input.shape[:3]] == [(1, 1, 4), (32, 64, 128), (32, 96, 128)]
    assert manifest.engine.workspace_bytes == 64 << 20


@pytest.mark.parametrize("targets", [("sm89", "sm999"), ("a100",), ("sm89,sm99",), ("",), ("sm86,,sm89",), ("current",)])
def test_an_unknown_target_lists_the_known(checkpoint_path, tmp_path, nothing_is_done, targets):
    """A GPU that TensorRT cannot compile for is refused before any work, with those that it can."""
    with pytest.raises(BackendError, match="a target out of sm75, sm80, sm86, sm89, sm120, sm121; got '") as caught:
        export_model(
            load_checkpoint(checkpoint_path),
            "tensorrt",
            tmp_path / "x",
            name="x",
            shapes=Shapes(1, 64, 96),
            options=Options(targets=targets),
        )
    assert "sm86,sm89" in caught.value.fix
    assert not list(tmp_path.iterdir())


def test_a_graph_that_does_not_parse(make_manifest, tmp_path):
    """TensorRT's parser says why in one line."""
    import onnx
    from onnx import TensorProto, helper

    graph = helper.make_graph(
        [helper.make_node("NoSuchOperator", ["image"], ["mask"], domain="elsewhere")],
        "bad",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3])],
        [helper.make_tensor_value_info("mask", TensorProto.FLOAT, [1, 3])],
    )
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("elsewhere", 1)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=10), tmp_path / "bad.onnx")
    manifest = make_manifest(engine=Engine(profiles=()))
    with pytest.raises(ExportError, match="a graph that TensorRT can parse") as caught:
        compile_engine(Plan(RTX, ("sm89",), None, None), tmp_path / "bad.onnx", manifest)
    assert "NoSuchOperator" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_does_not_compile(onnx_artifact):
    """TensorRT's own reason, and not that this machine has no driver, which it logs as well."""
    upside_down = Profile(min=(1, 64, 96), opt=(1, 64, 96), max=(1, 32, 32))
    manifest = msgspec.structs.replace(onnx_artifact.manifest, engine=Engine(profiles=(upside_down,)))
    with pytest.raises(ExportError, match="can compile for sm86,sm89; got .*rofile") as caught:
        compile_engine(Plan(RTX, ("sm86", "sm89"), None, None), onnx_artifact.model_path, manifest)
    assert "\n" not in str(caught.value)
    assert "driver version" not in str(caught.value)


def test_ctrl_c_ends_the_build(onnx_artifact, monkeypatch):
    """An interruption reaches Python through TensorRT's progress monitor, and no engine comes of it."""
    from contextlib import contextmanager

    steps = []

    @contextmanager
    def bar(label, total):
        def advance(note=""):
            steps.append(note)
            if len(steps) == 5:
                raise KeyboardInterrupt

        yield advance

    monkeypatch.setattr(exporting, "progress_bar", bar)
    profile = Profile(min=(1, 64, 96), opt=(1, 64, 96), max=(1, 64, 96))
    manifest = msgspec.structs.replace(onnx_artifact.manifest, engine=Engine(profiles=(profile,)))
    with pytest.raises(KeyboardInterrupt):
        compile_engine(Plan(RTX, ("sm89",), None, None), onnx_artifact.model_path, manifest)
    assert len(steps) == 5
    assert steps[0]


class FakeTensorRT(types.SimpleNamespace):
    """The full TensorRT's builder: notes what it is told, as ``told``, and makes an engine of it."""

    def __init__(self, version):  # noqa: C901  one small class after another
        weak = {"FP16": 0, "INT8": 1} if version.startswith("10.") else {}
        told = self.told = {"flags": {"TF32"}, "profiles": []}

        class Config:
            progress_monitor = None

            def clear_flag(self, flag):
                told["flags"].discard(flag.name)

            def set_flag(self, flag):
                told["flags"].add(flag.name)

            def set_memory_pool_limit(self, pool, size):
                told["limit"] = (pool, size)

            def add_optimization_profile(self, profile):
                told["profiles"].append(profile.shapes)

            def create_timing_cache(self, data):
                return types.SimpleNamespace(data=bytes(data), serialize=lambda: bytes(data) + b"measured,")

            def set_timing_cache(self, cache, ignore_mismatch):
                told["cache"] = cache.data
                return True

        class FakeProfile:
            def set_shape(self, *shapes):
                self.shapes = shapes

        class Builder:
            def __init__(self, logger):
                pass

            def create_network(self, flags):
                told["strongly typed"] = flags == 1 << 1
                assert flags in (0, 1 << 1)

            def create_builder_config(self):
                return Config()

            def create_optimization_profile(self):
                return FakeProfile()

            def build_serialized_network(self, network, config):
                assert config.progress_monitor.step_complete("timing", 1)
                return memoryview(b"an engine")

        class Parser:
            def __init__(self, network, logger):
                pass

            def parse_from_file(self, path):
                told["onnx"] = sha256_file(Path(path))
                return True

        class Base:
            ERROR, INTERNAL_ERROR = "error", "internal error"

        super().__init__(
            ILogger=Base,
            IProgressMonitor=Base,
            Builder=Builder,
            OnnxParser=Parser,
            NetworkDefinitionCreationFlag=enum.IntEnum("Flag", {"EXPLICIT_BATCH": 0, "STRONGLY_TYPED": 1}),
            BuilderFlag=enum.Enum("BuilderFlag", {"TF32": 9, **weak}),
            MemoryPoolType=types.SimpleNamespace(WORKSPACE="workspace"),
        )


@pytest.fixture
def full_tensorrt(monkeypatch, tmp_path):
    """Pretends a machine with an L4 and the full TensorRT of a version; gives what its builder is told."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def install(version, gpu=L4):
        module = FakeTensorRT(version)
        monkeypatch.setattr(exporting, "local_gpu", lambda: gpu)
        monkeypatch.setattr(exporting, "import_tensorrt", lambda **_: Flavour("tensorrt", version, module))
        return module.told

    return install


@pytest.mark.parametrize(
    ("version", "precision", "typing", "flags"),
    [
        ("10.9.0", "fp32", "strong", set()),
        ("10.9.0", "fp16", "strong", set()),
        ("10.9.0", "int8", "strong", set()),
        ("11.4.0", "fp16", "strong", set()),
        ("10.9.0", "fp32", "weak", set()),
        ("10.9.0", "fp16", "weak", {"FP16"}),
        ("10.9.0", "int8", "weak", {"INT8"}),
    ],
)
def test_what_each_version_is_told(full_tensorrt, make_manifest, tmp_path, monkeypatch, version, precision, typing, flags):
    """Strongly typed: the graph has the precision, no flag is set. Weakly: version 10 gets a fp32 graph and a flag for fp16."""
    told = full_tensorrt(version)

    def write_onnx(graph, manifest, folder, options):
        (folder / "model.onnx").write_text(manifest.precision)
        return manifest

    monkeypatch.setattr(exporting, "write_onnx", write_onnx)
    wide = Profile(min=(1, 8, 8), opt=(1, 16, 24), max=(4, 64, 64))
    one = Profile(min=(2, 8, 8), opt=(2, 8, 8), max=(2, 8, 8))
    engine = Engine(profiles=(wide, one), typing=typing, workspace_bytes=3 << 20)
    manifest = make_manifest(format="tensorrt", precision=precision, engine=engine)
    made = exporting.write_tensorrt(None, manifest, tmp_path, Options(precision=precision, typing=typing))
    assert told["strongly typed"] == (typing == "strong")
    assert told["flags"] == flags
    assert told["limit"] == ("workspace", 3 << 20)
    assert told["profiles"] == [
        ("image", (1, 8, 8, 3), (1, 16, 24, 3), (4, 64, 64, 3)),
        ("image", (2, 8, 8, 3), (2, 8, 8, 3), (2, 8, 8, 3)),
    ]
    in_graph = "fp32" if (precision, typing) == ("fp16", "weak") else precision
    assert (tmp_path / "model.onnx").read_text() == in_graph
    assert (tmp_path / "model.engine").read_bytes() == b"an engine"
    assert made.lineage.parent_sha256 == told["onnx"]
    assert (made.precision, made.toolchain.tensorrt, made.toolchain.tensorrt_flavour) == (precision, version, "tensorrt")
    assert (made.target.gpu, made.target.compute_capability) == ("NVIDIA L4", "sm89")
    assert re.fullmatch(rf"tensorrt-{version}-nvidia-l4\.timing", next((tmp_path / "cache" / "segdeploy").iterdir()).name)


def test_a_timing_cache_of_ones_own(full_tensorrt, export, tmp_path):
    """What is in the file is given to the builder, and what it measured is in the file afterwards."""
    told = full_tensorrt("10.9.0")
    path = tmp_path / "my.timing"
    for before in (b"", b"measured,"):
        export(Options(timing_cache=path))
        assert told["cache"] == before
    assert path.read_bytes() == b"measured,measured,"
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize(
    ("version", "gpu", "options", "error", "words"),
    [
        ("10.9", L4, {"targets": ("sm89",)}, BackendError, "which compiles ahead of time; got tensorrt 10.9"),
        ("10.9", None, {}, BackendError, "which compiles ahead of time; got tensorrt 10.9 and no GPU"),
        ("8.6.1", L4, {}, BackendError, "tensorrt >= 10; got tensorrt 8.6.1"),
        ("11.4.0", L4, {"typing": "weak"}, BackendError, "tensorrt 10, .* for --typing weak; got tensorrt 11.4.0"),
        ("10.9", L4, {"timing_cache": Path("/")}, InputError, "--timing-cache"),
    ],
)
def test_what_is_refused_before_any_work(
    full_tensorrt, checkpoint_path, nothing_is_done, tmp_path, version, gpu, options, error, words
):
    """What this TensorRT cannot do is said before the model is built."""
    full_tensorrt(version, gpu)
    shapes = Shapes(1, 64, 96)
    checkpoint = load_checkpoint(checkpoint_path)
    with pytest.raises(error, match=words):
        export_model(checkpoint, "tensorrt", tmp_path / "x", name="x", shapes=shapes, options=Options(**options))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"typing": "weak"}, "for --typing weak; got tensorrt_rtx"),
        ({"timing_cache": Path("x")}, "for --timing-cache; got tensorrt_rtx .*measures nothing"),
    ],
)
def test_what_rtx_has_not(no_gpu, options, words):
    """TensorRT-RTX is strongly typed, and has no timing cache."""
    with pytest.raises(BackendError, match=words):
        plan_build(Options(**options))


def test_rtx_on_a_gpu_machine(monkeypatch):
    """Where only TensorRT-RTX is installed, it compiles for the GPU that is there, or says that it cannot."""
    monkeypatch.setattr(exporting, "import_tensorrt", lambda **_: RTX)
    monkeypatch.setattr(exporting, "local_gpu", lambda: Gpu("RTX 5090", "sm120"))
    assert plan_build(Options()).targets == ("sm120",)
    monkeypatch.setattr(exporting, "local_gpu", lambda: Gpu("NVIDIA H200", "sm90"))
    with pytest.raises(BackendError, match="a target out of .*; got 'sm90'"):
        plan_build(Options())
    assert core.known_targets(Flavour("tensorrt", "10.9", types.SimpleNamespace())) == []
