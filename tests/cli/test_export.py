import json
import re
import shlex
from pathlib import Path

import pytest

from segdeploy.artifact.engine import trtexec_command
from segdeploy.artifact.folder import open_artifact
from segdeploy.base.machine import cpu_flags
from support.models import FIRST


def test_export_and_proof(main, checkpoint_path):
    """Two formats in one go: artifacts under exports/NAME, verified on the validation pictures, and what comes next."""
    ended = main("export", checkpoint_path, "--to", "torchscript", "--to", "onnx", "--max-shape", "160x160")
    assert ended.status == 0, ended.err
    for fmt in ("torchscript", "onnx"):
        manifest = open_artifact(Path("exports/tiny") / f"{fmt}-fp32").manifest
        assert manifest.verdict().verdict == "passed"
        assert re.fullmatch(r"all 6 labelled images of \w+, val", manifest.verdict().inputs)
        assert f"exports/tiny/{fmt}-fp32  " in ended.out
        assert re.search(rf"tiny/{fmt}-fp32: passed on all 6 labelled images of \w+, val, cpu", ended.out)
    assert "N 1..16, H 32..160, W 32..160" in ended.out
    assert "next: segdeploy" in ended.out
    assert sorted(path.name for path in Path("exports/tiny").iterdir()) == ["onnx-fp32", "torchscript-fp32"]


def test_lower_precisions(main, checkpoint_path, exported_before):
    """fp16 and int8 land in folders of their own, are verified, and say what they cost; ``inspect`` says it again."""
    for precision in ("fp16", "int8"):
        ended = main(
            "export", checkpoint_path, "--to", "onnx", "--precision", precision, "--calib-images", 2, "--max-miou-drop", 5,
            "--max-shape", "256x256",
        )  # fmt: skip
        # Labels flip at borders, and six pictures are too few to say what that does to mIoU: no verdict is no success.
        assert ended.status == 4, ended.err + ended.out
        assert re.search(rf"exports/tiny/onnx-{precision}: undecided on all 6 labelled images of \w+, val, cpu", ended.out)
        assert "6 labelled images are too few for an interval" in ended.out
        assert f"layers in {precision}" in ended.out
        assert "ranges from 2 images, val of " in ended.out
        shown = main("inspect", f"exports/tiny/onnx-{precision}").out
        assert f"precision   {precision}" in shown
        assert f"layers in {precision}" in shown
    assert "budget 5 points" in shown
    assert "mIoU" in shown
    fp16 = main("inspect", "exports/tiny/onnx-fp16").out
    assert "kept in fp32: decode_head.psp_modules.3.0 (MatMul): exact pooling" in fp16
    assert sorted(path.name for path in Path("exports/tiny").iterdir()) == ["onnx-fp16", "onnx-int8"]


@pytest.mark.parametrize(
    ("precision", "status", "verdict"), [("fp32", 0, "passed"), ("bf16", 4, "undecided"), ("int8", 4, "undecided")]
)
def test_openvino(main, checkpoint_path, exported_before, precision, status, verdict):
    """It ends in a verdict that is recorded, in the exit status that the verdict has, and tells the size of both files."""
    pytest.importorskip("openvino", reason="openvino is not installed")
    if precision == "int8":
        pytest.importorskip("nncf", reason="nncf is not installed")
    if precision == "bf16" and not {"avx512_bf16", "amx_bf16", "bf16"} & cpu_flags():
        pytest.skip("this processor has no bfloat16")
    ended = main(
        "export", checkpoint_path, "--to", "openvino", "--precision", precision, "--max-miou-drop", 10, "--max-shape", "128x128"
    )
    assert ended.status == status, ended.err + ended.out
    folder = Path(f"exports/tiny/openvino-{precision}")
    assert open_artifact(folder).manifest.verdict().verdict == verdict
    size = sum((folder / name).stat().st_size for name in ("model.xml", "model.bin")) / 1e6
    assert f"{folder}  {size:.1f} MB  N 1..16" in ended.out
    if precision == "int8":
        assert re.search(r"by (NNCF [\d.]+|onnxruntime static Q/DQ) \d+\.\d\d", ended.out)


def test_the_plain_graph(main, checkpoint_path):
    """By default convolutions come before upsampling, and ``inspect`` names them; with --no-restructure none does."""
    arguments = ("export", checkpoint_path, "--to", "torchscript", "--no-verify")
    assert main(*arguments, "--name", "fast").status == 0
    assert main(*arguments, "--name", "plain", "--no-restructure").status == 0
    fast, plain = (main("inspect", f"exports/{name}/torchscript-fp32").out for name in ("fast", "plain"))
    assert "convolved before upsampling: decode_head.bottleneck.conv, decode_head.fpn_bottleneck.conv" in fast
    assert "nothing is convolved before upsampling" in plain
    assert "--no-restructure" in plain


def test_the_newest_checkpoint_by_default(main, checkpoint_path):
    """Without TARGET the newest run's checkpoint is exported, under the run's name."""
    Path("work_dirs/my_run").mkdir(parents=True)
    Path("work_dirs/my_run/epoch_1.pth").write_bytes(checkpoint_path.read_bytes())
    ended = main("export", "--to", "torchscript", "--shape", "64x96", "--batch", "1", "--no-verify", "--out", "there")
    assert ended.status == 0, ended.err
    manifest = open_artifact(Path("there/my_run/torchscript-fp32")).manifest
    assert manifest.input.shape == (1, 64, 96, 3)
    assert manifest.parity == ()


def test_an_engine_for_another_machine(main, checkpoint_path, no_gpu):
    """An engine is exported rightly though it cannot be verified here: exit 0, and ``skipped`` with its reason."""
    pytest.importorskip("tensorrt_rtx", reason="tensorrt_rtx, which compiles engines without a GPU, is not installed")
    ended = main("export", checkpoint_path, "--to", "tensorrt", "--shape", "64x96", "--batch", "1", "--target", "sm86")
    assert ended.status == 0, ended.err
    assert "skipped" in ended.out
    assert "passed" not in ended.out
    manifest = open_artifact(Path("exports/tiny/tensorrt-fp32")).manifest
    assert manifest.target.compute_capability == "sm86"
    assert manifest.verdict().verdict == "skipped"
    assert f"in this folder: {trtexec_command(manifest)}\n" in ended.out


def test_several_profiles_and_targets(main, checkpoint_path, exported_before):
    """The profiles are shown as they were typed; formats without profiles take the range that spans them."""
    pytest.importorskip("tensorrt_rtx", reason="tensorrt_rtx, which compiles engines without a GPU, is not installed")
    ended = main(
        "export", checkpoint_path, "--to", "onnx", "--to", "tensorrt", "--target", "sm89,sm120", "--target", "sm86",
        "--profile", "1x64x96", "--profile", "2x32x32:2x64x64:4x128x128", "--workspace", "64", "--no-verify",
    )  # fmt: skip
    assert ended.status == 0, ended.err
    onnx, engine = (open_artifact(Path("exports/tiny") / f"{fmt}-fp32").manifest for fmt in ("onnx", "tensorrt"))
    assert engine.input.shape == onnx.input.shape
    assert onnx.engine is None
    for text in (ended.out, main("inspect", "exports/tiny/tensorrt-fp32").out):
        assert "N 1..4" in text
        assert "strongly typed, workspace 64 MiB" in text
        assert "profile 0: 1x64x96\n" in text
        assert "profile 1: 2x32x32:2x64x64:4x128x128\n" in text
        assert "--computeCapabilities=89,120,86 --memPoolSize=workspace:64 --profile=0 " in text


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--to", "caffe"), "a format out of torchscript, pt2, onnx, openvino, tensorrt"),
        (("--to", "onnx", "--to", "caffe"), "'caffe'"),
        (("--to", "onnx", "--opset", "9"), "an opset of 18 to 23"),
        (("--to", "torchscript", "--shape", "big"), "HxW for --shape"),
        (("--to", "torchscript", "--shape", "64x64", "--max-shape", "64x64"), "both"),
        (("--to", "torchscript", "--batch", "4:2:1"), "min <= opt <= max"),
        (("--to", "torchscript", "--config", "none.py"), "'none.py'"),
        (("--to", "torchscript", "--min-shape", "96x96", "--opt-shape", "64x64"), "min 96, opt 64"),
        (("--to", "torchscript", "--opt-shape", "96x96", "--max-shape", "64x64"), "opt 96, max 64"),
        (("--to", "torchscript", "--shape", "16x64"), "at least 32, the network's stride; got 16x64"),
        (("--to", "onnx", "--min-shape", "64x8"), "at least 32, the network's stride; got 64x8"),
        (("--to", "torchscript", "--precision", "fp16"), "fp32 for torchscript"),
        (("--to", "pt2", "--precision", "fp16"), "fp32 for pt2"),
        (("--to", "pt2", "--precision", "int8"), "fp32 for pt2"),
        (("--to", "pt2", "--target", "sm89"), "--target cpu or --target cuda"),
        (("--to", "onnx", "--to", "torchscript", "--precision", "int8"), "fp32 for torchscript"),
        (("--to", "torchscript", "--profile", "64x64", "--shape", "64x64"), "--profile alone"),
        (("--to", "torchscript", "--profile", "64x64:32x32:96x96"), "min <= opt <= max"),
    ],
)
def test_bad_options(main, one_line, checkpoint_path, arguments, words):
    """One line, exit 1, and nothing at all under --out."""
    one_line(main("export", checkpoint_path, *arguments, "--out", "out"), words)
    assert not [path for path in Path("out").rglob("*") if path.is_file()]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--target", "sm99"), "a target out of sm75"),
        (("--target", "sm89,a100"), "'a100'"),
        (("--typing", "weak"), "--typing weak"),
        (("--timing-cache", "here"), "--timing-cache"),
    ],
)
def test_what_tensorrt_cannot_do(main, one_line, checkpoint_path, monkeypatch, no_gpu, arguments, words):
    """Said before anything is exported, also to the formats that come first."""
    pytest.importorskip("tensorrt_rtx", reason="tensorrt_rtx, which compiles engines without a GPU, is not installed")
    monkeypatch.setattr("segdeploy.export.export.export_model", lambda *_, **__: pytest.fail("work was done"))
    ended = main("export", checkpoint_path, "--to", "torchscript", "--to", "tensorrt", *arguments, "--out", "out")
    one_line(ended, words)
    assert not Path("out").exists()


CUSTOM = """
import torch
from mmseg.models.decode_heads import FCNHead
from mmseg.registry import MODELS

@torch.library.custom_op("segtest::twice", mutates_args=())
def twice(x: torch.Tensor) -> torch.Tensor:
    return 2 * x

@twice.register_fake
def _(x):
    return torch.empty_like(x)

@MODELS.register_module()
class TwiceHead(FCNHead):
    def forward(self, inputs):
        return torch.ops.segtest.twice(super().forward(inputs))
"""


def test_a_custom_operator(main, one_line, config_file, random_variant, tmp_path, monkeypatch):
    """What only this process knows can be in no artifact: the operator is named, in every format."""
    (tmp_path / "segtest_ops.py").write_text(CUSTOM)
    monkeypatch.syspath_prepend(tmp_path)
    imports = {"imports": ["segtest_ops"], "allow_failed_imports": False}
    config = config_file("custom_op", custom_imports=imports, model__decode_head={**FIRST, "type": "TwiceHead"})
    checkpoint, _ = random_variant("once", model__decode_head=FIRST)
    for fmt in ("onnx", "torchscript", "pt2"):
        one_line(main("export", checkpoint, "--config", config, "--to", fmt, "--out", "out"), "'segtest::twice'", fmt)
    assert not [path for path in Path("out").rglob("*") if path.is_file()]


def test_no_calibration_images(main, one_line, checkpoint_path, exported_before):
    """A lower precision needs images: a folder without any is one line, and nothing is left."""
    Path("empty").mkdir()
    for precision in ("fp16", "int8"):
        arguments = ("--to", "onnx", "--precision", precision, "--calib", "empty", "--out", "out")
        one_line(main("export", checkpoint_path, *arguments), "empty")
    assert not [path for path in Path("out").rglob("*") if path.is_file()]


def test_the_limit_of_pixels(main, one_line, checkpoint_path, exported_before, images_folder):
    """--max-pixels holds for the pictures that ranges are measured on, and for those of the verdict; the first has 7,500."""
    words = ("export", checkpoint_path, "--to", "onnx", "--max-pixels", "7499")
    refused = ("at most 0.007499 megapixels in '", "got 100x75", "--max-pixels")
    one_line(main(*words, "--precision", "fp16", "--calib", images_folder, "--no-verify"), *refused)
    one_line(main(*words, "--images", images_folder), *refused)


def test_the_command(main, checkpoint_path, exported_before, monkeypatch):
    """The manifest has the command that makes the same artifact, as it was typed, and ``inspect`` shows it."""
    Path("a run").mkdir()
    Path("a run/tiny.pth").write_bytes(checkpoint_path.read_bytes())
    typed = ("a run/tiny.pth", "--to", "torchscript", "--to", "onnx", "--max-shape", "160x160", "--batch", "1:2:4")
    ended = main("export", *typed, "--no-verify", "--out", "first", "--opset", 20)
    assert ended.status == 0, ended.err
    for fmt in ("torchscript", "onnx"):
        said = f"segdeploy export 'a run/tiny.pth' --to {fmt} --max-shape 160x160 --batch 1:2:4 --opset 20"
        first = open_artifact(Path(f"first/tiny/{fmt}-fp32")).manifest
        assert first.lineage.command == said
        assert said in main("inspect", f"first/tiny/{fmt}-fp32").out
    words = shlex.split(said)
    assert main(*words[1:], "--no-verify", "--out", "second").status == 0
    second = open_artifact(Path("second/tiny/onnx-fp32")).manifest
    assert second == first


def test_bad_targets(main, one_line, tmp_path):
    """A missing checkpoint, a text, a folder, and none at all: one line each."""
    one_line(main("export", "none.pth", "--to", "torchscript"), "no such file")
    (tmp_path / "text.pth").write_text("hello")
    one_line(main("export", "text.pth", "--to", "torchscript"), "text.pth")
    one_line(main("export", tmp_path, "--to", "torchscript"), "no such file")
    one_line(main("export", "--to", "torchscript"), "segdeploy train")
    assert not Path("exports").exists()


def test_out_is_a_file(main, one_line, checkpoint_path):
    """A file where the artifacts should go is one line, and stays as it is."""
    Path("out").write_text("precious")
    one_line(
        main("export", checkpoint_path, "--to", "torchscript", "--no-verify", "--out", "out"), "a folder that can be written"
    )
    assert Path("out").read_text() == "precious"


def test_failed_parity_is_exit_3(main, one_line, checkpoint_path, monkeypatch):
    """A model that changed on the way is said with exit 3, and its artifact says so too."""
    from segdeploy.export.graph import DeployGraph

    forward = DeployGraph.forward
    monkeypatch.setattr(DeployGraph, "forward", lambda self, image: forward(self, image.flip(3)))
    ended = main("export", checkpoint_path, "--to", "torchscript", "--max-shape", "96x96")
    one_line(ended, "exports/tiny/torchscript-fp32 failed", status=3)
    assert "FAILED" in ended.out
    assert json.loads(Path("exports/tiny/torchscript-fp32/manifest.json").read_text())["parity"][0]["verdict"] == "failed"
    ended = main("inspect", "exports/tiny/torchscript-fp32")
    assert "failed" in ended.out


def test_a_name_cannot_lead_out_of_the_folder(main, one_line, checkpoint_path, tmp_path):
    """A name is one folder under --out, nothing else."""
    one_line(main("export", checkpoint_path, "--to", "torchscript", "--name", "../escape"), "../escape")
    assert not (tmp_path.parent / "escape").exists()


def test_every_precision_is_known_wherever_one_is_looked_up():
    """A new one that one of the tables lacks would end an export after the work was done."""
    from segdeploy.artifact.manifest import PRECISIONS
    from segdeploy.cli import export
    from segdeploy.parity import determinism, layers, tolerance

    tables = (
        export._VERIFY_IMAGES, determinism._OWN_ROUNDING, layers._LIMITS, tolerance.TOLERANCES, tolerance.RESIZE_ROUNDING,
    )  # fmt: skip
    assert {tuple(table) for table in tables} == {tuple(PRECISIONS)}
