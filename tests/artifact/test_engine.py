import shlex

import click
import msgspec
import pytest

from segdeploy.artifact.engine import choose_profile, has_fixed_shape, profile_text, trtexec_command
from segdeploy.artifact.manifest import Bounds, Engine, Profile, Target
from segdeploy.artifact.rebuild import export_command


def profile(low, opt, high):
    return Profile(min=low, opt=opt, max=high)


SMALL = profile((1, 32, 32), (1, 64, 96), (1, 128, 128))
BATCH = profile((2, 64, 96), (8, 64, 96), (8, 64, 96))
WIDE = profile((1, 32, 32), (1, 512, 512), (4, 1024, 1024))
ONE = profile((1, 512, 512), (1, 512, 512), (1, 512, 512))


@pytest.fixture
def manifest_of(make_manifest):
    """Manifests of engines: (profiles, flavour, version, what Engine and Manifest take)."""

    def make(*profiles, flavour="tensorrt_rtx", version="1.7.1", capability="sm89", step=1, **changes):
        engine = {key: changes.pop(key) for key in ("typing", "workspace_bytes") if key in changes}
        base = make_manifest(format="tensorrt", engine=Engine(profiles=profiles, **engine), **changes)
        tools = msgspec.structs.replace(base.toolchain, tensorrt=version, tensorrt_flavour=flavour)
        axes = (Bounds(min=1, opt=1, max=8), *(Bounds(min=32, opt=64, max=1024, step=step),) * 2, 3)
        shape = (*profiles[0].min, 3) if len(profiles) == 1 and profiles[0].min == profiles[0].max else axes
        return msgspec.structs.replace(
            base,
            toolchain=tools,
            target=Target(device="cuda", compute_capability=capability),
            input=msgspec.structs.replace(base.input, shape=shape),
        )

    return make


@pytest.mark.parametrize(
    ("shape", "index"),
    [
        ((1, 64, 96), 0),  # in two profiles, and just what the first is tuned for
        ((1, 128, 128), 0),
        ((1, 128, 129), 2),
        ((1, 500, 500), 2),
        ((4, 64, 96), 1),  # in two profiles; eight images are nearer to four than one of 512 x 512
        ((5, 64, 96), 1),
        ((4, 64, 97), 2),
        ((5, 64, 97), None),
        ((1, 31, 64), None),
        ((1, 1024, 1025), None),
        ((9, 64, 96), None),
    ],
)
def test_the_profile_for_a_shape(shape, index):
    """Every bound counts, and the nearest of those that take the shape runs it."""
    assert choose_profile(Engine(profiles=(SMALL, BATCH, WIDE)), shape) == index
    assert choose_profile(Engine(profiles=(WIDE, BATCH, SMALL)), shape) == (None if index is None else 2 - index)


def test_one_shape():
    """Only an engine with a single profile, of a single shape, is fixed."""
    assert has_fixed_shape(Engine(profiles=(ONE,)))
    assert not has_fixed_shape(Engine(profiles=(ONE, BATCH)))
    assert not has_fixed_shape(Engine(profiles=(BATCH,)))


@pytest.mark.parametrize("profiles", [(SMALL, BATCH, WIDE), (ONE,), (WIDE,)])
@pytest.mark.parametrize("step", [1, 32])
def test_the_export_command_asks_for_the_same(manifest_of, profiles, step):
    """Read back by the command line's own parser it is the same checkpoint, precision, profiles, targets and limits."""
    from segdeploy.cli.export import command
    from segdeploy.cli.main import cli
    from segdeploy.export.exporter import find_exporter
    from segdeploy.export.shapes import choose_shapes

    manifest = manifest_of(*profiles, step=step, precision="int8", workspace_bytes=512 << 20, typing="weak")
    lineage = msgspec.structs.replace(manifest.lineage, checkpoint="my run/it's best.pth", data_root="data/VOC 2012")
    manifest = msgspec.structs.replace(manifest, lineage=lineage)
    words = shlex.split(export_command(manifest, "tensorrt", ["sm86", "sm120"]))
    assert words[:2] == ["segdeploy", "export"]
    given = command.make_context("export", words[2:], parent=click.Context(cli, **cli.context_settings)).params
    assert (str(given["target"]), given["formats"], given["name"]) == ("my run/it's best.pth", ("tensorrt",), "hand")
    assert (given["precision"], str(given["data"]), given["targets"]) == ("int8", "data/VOC 2012", ("sm86,sm120",))
    assert (given["workspace_mib"], given["typing"]) == (512, "weak")
    assert given["multiple"] == (1 if len(profiles) == 1 and profiles[0] == ONE else step)
    chosen = choose_shapes(
        (9, 9), limits=find_exporter("tensorrt").limits, profiles=given["profiles"], multiple=given["multiple"]
    )
    assert chosen.profiles == profiles
    again = shlex.split(export_command(manifest, "onnx"))[2:]
    other = command.make_context("export", again, parent=click.Context(cli, **cli.context_settings)).params
    assert (other["formats"], other["targets"], other["workspace_mib"], other["typing"]) == (("onnx",), (), None, "strong")


def test_profiles_as_text():
    """MIN:OPT:MAX, or one shape."""
    assert profile_text(WIDE) == "1x32x32:1x512x512:4x1024x1024"
    assert profile_text(ONE) == "1x512x512"


@pytest.mark.parametrize(
    ("flavour", "version", "precision", "typing", "words"),
    [
        ("tensorrt", "10.9.0.34", "fp32", "strong", ["trtexec", "--stronglyTyped"]),
        ("tensorrt", "10.9.0.34", "fp16", "strong", ["trtexec", "--stronglyTyped"]),
        ("tensorrt", "10.9.0.34", "fp32", "weak", ["trtexec"]),
        ("tensorrt", "10.9.0.34", "fp16", "weak", ["trtexec", "--fp16"]),
        ("tensorrt", "10.9.0.34", "int8", "weak", ["trtexec", "--int8"]),
        ("tensorrt", "11.4.0.106", "fp16", "strong", ["trtexec"]),
        ("tensorrt_rtx", "1.7.1.116", "int8", "strong", ["tensorrt_rtx", "--computeCapabilities=89,120"]),
    ],
)
def test_trtexec_of_each_version(manifest_of, flavour, version, precision, typing, words):
    """The tool's name and what tells it the precision: typing asked for in 10, nothing to ask in 11 and in RTX."""
    manifest = manifest_of(ONE, flavour=flavour, version=version, precision=precision, typing=typing, capability="sm89,sm120")
    same = ["--onnx=model.onnx", "--saveEngine=trtexec.engine", "--skipInference", "--noTF32"]
    assert shlex.split(trtexec_command(manifest)) == [words[0], *same, *words[1:]]


def test_trtexec_with_shapes_and_workspace(manifest_of):
    """Dynamic shapes in TensorRT's layout, numbered where there are several; a fixed one is in the graph already."""
    line = trtexec_command(manifest_of(WIDE, workspace_bytes=2 << 30))
    assert "--memPoolSize=workspace:2048 " in line
    assert line.endswith("--minShapes=image:1x32x32x3 --optShapes=image:1x512x512x3 --maxShapes=image:4x1024x1024x3")
    assert "--profile" not in line
    several = trtexec_command(manifest_of(ONE, WIDE))
    first, second = several.split(" --profile=1 ")
    assert first.endswith(
        "--profile=0 --minShapes=image:1x512x512x3 --optShapes=image:1x512x512x3 --maxShapes=image:1x512x512x3"
    )
    assert second.startswith("--minShapes=image:1x32x32x3 ")
    assert "Shapes" not in trtexec_command(manifest_of(ONE))


def test_the_command_that_was_typed(manifest_of):
    """Where the manifest has the command, it is that, for another format and other GPUs."""
    manifest = manifest_of(SMALL)
    typed = "segdeploy export 'a run/x.pth' --to tensorrt --target sm89 --opset 20 --target sm86"
    lineage = msgspec.structs.replace(manifest.lineage, command=typed)
    manifest = msgspec.structs.replace(manifest, lineage=lineage)
    assert export_command(manifest, "onnx") == "segdeploy export 'a run/x.pth' --opset 20 --to onnx"
    assert export_command(manifest, "tensorrt", ["sm120"]).endswith("--opset 20 --to tensorrt --target sm120")


def test_of_two_that_take_a_shape_the_one_tuned_nearest():
    """Nearest by ratio, above as below what it is tuned for."""
    small, large = (Profile(min=(1, 32, 32), opt=(1, side, side), max=(1, 1024, 1024)) for side in (128, 512))
    engine = Engine(profiles=(small, large))
    assert [choose_profile(engine, (1, side, side)) for side in (100, 250, 260, 500)] == [0, 0, 1, 1]
