import json
import shutil
from pathlib import Path

import pytest


@pytest.fixture
def exports(onnx_artifact, torchscript_artifact):
    """Puts artifacts under exports/ of the current folder."""

    def put(*artifacts):
        for artifact in artifacts:
            shutil.copytree(artifact.folder, Path("exports") / "tiny" / artifact.manifest.label)

    return put


def test_all_under_exports(main, exports, onnx_artifact, torchscript_artifact):
    """Without arguments everything under exports/ is verified; exit 0 when all passed; --json holds the figures."""
    exports(onnx_artifact, torchscript_artifact)
    ended = main("verify", "--json", "parity.json")
    assert ended.status == 0, ended.err
    figures = json.loads(Path("parity.json").read_text())
    assert {name: one["verdict"] for name, one in figures.items()} == {
        "tiny/onnx-fp32": "passed",
        "tiny/torchscript-fp32": "passed",
    }
    assert ended.out.count("passed on 6 images of val, cpu") == 2
    assert len(figures["tiny/onnx-fp32"]["shapes"]) == 6


def test_options(main, exports, torchscript_artifact, images_folder, checkpoint_path):
    """--shape, --batch, --limit, --images and --checkpoint do what they say."""
    exports(torchscript_artifact)
    arguments = ("--shape", "40x50", "--shape", "50x40", "--batch", "2", "--limit", "3", "--images", images_folder)
    ended = main("verify", "exports/tiny", *arguments, "--checkpoint", checkpoint_path, "--json", "parity.json")
    assert ended.status == 0, ended.err
    parity = json.loads(Path("parity.json").read_text())["tiny/torchscript-fp32"]
    assert [shape["shape"] for shape in parity["shapes"]] == [[2, 40, 50], [2, 50, 40]]
    assert parity["inputs"] == "3 images of val"


def test_a_failure_is_exit_3(main, one_line, exports, onnx_artifact, torchscript_artifact):
    """One bad artifact among good ones: exit 3, and the line names the bad one only."""
    import onnx
    from onnx import numpy_helper

    from segdeploy.core.artifact import write_artifact

    exports(torchscript_artifact)

    def write(folder):
        model = onnx.load(onnx_artifact.model_path)
        mean = next(one for one in model.graph.initializer if one.name == "mean")
        mean.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(mean)[:, ::-1].copy(), "mean"))
        onnx.save(model, folder / "model.onnx")
        return onnx_artifact.manifest

    write_artifact(Path("exports/tiny/onnx-fp32"), write)
    ended = main("verify")
    one_line(ended, "got tiny/onnx-fp32 failed;", status=3)
    assert "tiny/torchscript-fp32: passed" in ended.out


def test_what_cannot_run_is_exit_4(main, one_line, exports, torchscript_artifact, tensorrt_artifact, no_gpu):
    """An engine that nothing here can run: exit 4, shown as skipped with the reason, beside an artifact that passed."""
    exports(torchscript_artifact, tensorrt_artifact)
    ended = main("verify")
    one_line(ended, "tiny/tensorrt-fp32 could not be run here", status=4)
    assert "tiny/tensorrt-fp32: skipped: expected an NVIDIA GPU" in ended.out
    assert "tiny/torchscript-fp32: passed" in ended.out


def test_bad_inputs(main, one_line, exports, torchscript_artifact, tmp_path):
    """No artifact, a damaged one, another checkpoint, no pictures, a bad size: one line each, exit 1."""
    one_line(main("verify"), "segdeploy export")
    exports(torchscript_artifact)
    one_line(main("verify", "none"), "no such folder")
    one_line(main("verify", "--images", "none"), "no such folder")
    one_line(main("verify", "--shape", "5"), "HxW for --shape")
    one_line(main("verify", "--shape", "5x5"), "H within")
    Path("other.pth").write_bytes(b"x")
    one_line(main("verify", "--checkpoint", "other.pth"), "another one at 'other.pth'")
    model = Path("exports/tiny/torchscript-fp32/model.pt")
    model.write_bytes(model.read_bytes()[:-1] + b"x")
    one_line(main("verify"), "model.pt", "changed or damaged")
