import json
import shutil
from pathlib import Path

import cv2
import msgspec
import numpy as np
import pytest


@pytest.mark.parametrize("backend", ["eager", "onnx", "torchscript"])
def test_is_mmsegs_runner(request, main, backend, runner_scores, checkpoint_path, labelled_root):
    """The figures that `eval` prints and writes are those of mmseg's own Runner.test(), for checkpoint and artifacts."""
    target = checkpoint_path if backend == "eager" else request.getfixturevalue(f"{backend}_artifact").folder
    ended = main("eval", target, "--data", labelled_root, "--json", "eval.json", "--device", "cpu", "--threads", "1")
    assert ended.status == 0, ended.err
    figures = json.loads(Path("eval.json").read_text())
    assert figures["images"] == 6
    found = {"aAcc": figures["aacc"], "mIoU": figures["miou"], "mAcc": figures["macc"]}
    assert found == pytest.approx(runner_scores, abs=0.01)
    assert f"aAcc {found['aAcc']:.2f}   mIoU {found['mIoU']:.2f}   mAcc {found['mAcc']:.2f}" in ended.out
    for one in figures["classes"]:
        assert one["name"] in ended.out
        assert f"{one['pixels']:,}" in ended.out


def test_defaults(main, checkpoint_path):
    """Without TARGET and --data: the newest checkpoint, on the data that its config names."""
    Path("work_dirs/run").mkdir(parents=True)
    Path("work_dirs/run/epoch_1.pth").write_bytes(checkpoint_path.read_bytes())
    ended = main("eval", "--limit", "2")
    assert ended.status == 0, ended.err
    assert "run/eager-fp32 on val (2 images, cpu)" in ended.out


@pytest.mark.usefixtures("no_gpu")
def test_bad_inputs(main, one_line, checkpoint_path, labelled_root, onnx_artifact):
    """A missing target, data set, split or GPU: one line each, exit 1, and no figures written."""
    one_line(main("eval"), "segdeploy train")
    one_line(main("eval", "none.pth"), "no such file")
    ended = main("eval", onnx_artifact.folder, "--data", labelled_root, "--limit", "1", "--max-pixels", "99")
    assert "at most 9.9e-05 megapixels" in ended.err
    one_line(main("eval", labelled_root), "manifest.json")
    one_line(main("eval", onnx_artifact.folder, "--data", "none"), "a data set at 'none'")
    one_line(main("eval", onnx_artifact.folder, "--data", labelled_root, "--split", "test"), "a split 'test'")
    one_line(main("eval", onnx_artifact.folder, "--data", labelled_root, "--device", "cuda", "--json", "x.json"), "CUDA")
    one_line(main("eval", checkpoint_path, "--data", labelled_root, "--device", "cuda", "--json", "x.json"), "a CUDA device")
    assert not list(Path().iterdir())


def test_figures_that_cannot_be_written(main, one_line, onnx_artifact, labelled_root):
    """A file in the place of the folder is one line."""
    Path("file").touch()
    ended = main("eval", onnx_artifact.folder, "--data", labelled_root, "--limit", "1", "--json", "file/x.json")
    one_line(ended, "a folder that can be written")


def test_a_class_may_be_called_anything(main, onnx_artifact, labelled_root, copied):
    """Brackets in a class's name are shown, not read as markup, in the table and in the picture."""
    from segdeploy.artifact.manifest import encode_manifest
    from segdeploy.base.files import write_file

    artifact = copied(onnx_artifact)
    names = ("b[/] [red]", "[link=x]y[/link]", "$a_b$", ":smile:", "e")
    write_file(artifact.folder / "manifest.json", encode_manifest(msgspec.structs.replace(artifact.manifest, classes=names)))
    ended = main("eval", artifact.folder, "--data", labelled_root, "--limit", "1", "--confusion", "c.svg")
    assert ended.status == 0, ended.err
    for name in names:
        assert name in ended.out
        assert name in Path("c.svg").read_text()


def test_the_report_describes_itself(main, onnx_artifact, labelled_root):
    """What was evaluated, on what, how, where, and the counts behind the scores."""
    arguments = ("--data", labelled_root, "--limit", "4", "--crop", "48x40", "--flip", "--device", "cpu", "--threads", "1")
    ended = main("eval", onnx_artifact.folder, *arguments, "--json", "eval.json")
    assert ended.status == 0, ended.err
    assert "on crops of 48x40, stride 32x27, mirrored too" in ended.out
    report = json.loads(Path("eval.json").read_text())
    assert (report["schema"], report["kind"], report["complete"], report["unused"]) == (1, "evaluation", True, [])
    assert report["target"]["checkpoint_sha256"] == onnx_artifact.manifest.lineage.checkpoint_sha256
    assert report["target"]["model_sha256"] == onnx_artifact.manifest.files[0].sha256
    assert (report["data"]["root"], report["data"]["split"]) == (str(labelled_root), "val")
    assert (report["data"]["chosen"], report["data"]["total"], report["images"]) == (4, 6, 4)
    assert report["method"]["inference"] == {"mode": "slide", "crop": [48, 40], "stride": [32, 27]}
    assert (report["method"]["scales"], report["method"]["flip"]) == ([], True)
    assert (report["running"]["device"], report["running"]["threads"]) == ("cpu", 1)
    assert report["command"].startswith("segdeploy eval ")
    counts = np.array(report["confusion"])
    assert counts.sum(1).tolist() == [one["pixels"] for one in report["classes"]]
    hits = np.diag(counts)
    iou = 100 * hits / (counts.sum(0) + counts.sum(1) - hits)
    assert [one["iou"] for one in report["classes"]] == pytest.approx(iou.tolist())


def test_augmentation_is_mmsegs(main, run_mmseg, checkpoint_path, labelled_root):
    """--scales and --flip as mmseg's tools/test.py --tta."""
    scales = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)
    steps = [
        [{"type": "Resize", "scale_factor": scale, "keep_ratio": True} for scale in scales],
        [{"type": "RandomFlip", "prob": prob, "direction": "horizontal"} for prob in (0.0, 1.0)],
        [{"type": "LoadAnnotations"}],
        [{"type": "PackSegInputs"}],
    ]
    expected = run_mmseg(
        checkpoint_path, tta_pipeline=[{"type": "LoadImageFromFile"}, {"type": "TestTimeAug", "transforms": steps}]
    )
    arguments = (
        "--data",
        labelled_root,
        "--scales",
        ",".join(map(str, scales)),
        "--flip",
        "--threads",
        "1",
        "--json",
        "e.json",
    )
    ended = main("eval", checkpoint_path, *arguments)
    assert ended.status == 0, ended.err
    figures = json.loads(Path("e.json").read_text())
    assert {"aAcc": figures["aacc"], "mIoU": figures["miou"], "mAcc": figures["macc"]} == pytest.approx(expected, abs=0.01)


def test_processes(main, onnx_artifact, labelled_root):
    """Two of them count what one counts; the table and the file say how many there were."""
    reports = []
    for processes in ("1", "2"):
        ended = main("eval", onnx_artifact.folder, "--data", labelled_root, "--processes", processes, "--json", "e.json")
        assert ended.status == 0, ended.err
        reports.append(json.loads(Path("e.json").read_text()))
    assert "cpu, 2 processes" in ended.out
    assert reports[1]["running"]["processes"] == 2
    for field in ("confusion", "classes", "miou", "data", "method"):
        assert reports[0][field] == reports[1][field]


def test_bad_images_are_all_named(main, one_line, onnx_artifact, labelled_root):
    """Each thing that is wrong has its line, the others are evaluated, and the scores are marked as of a part; exit 1."""
    root = Path(shutil.copytree(labelled_root, "data"))
    for name, value in (("1", 5), ("3", 77)):
        label = cv2.imread(str(root / "ann_dir" / "val" / f"{name}.png"), cv2.IMREAD_UNCHANGED)
        label[0, 0] = value
        cv2.imwrite(str(root / "ann_dir" / "val" / f"{name}.png"), label)
    ended = main("eval", onnx_artifact.folder, "--data", root, "--json", "e.json", "--confusion", "c.svg")
    one_line(ended, "6 images that can be evaluated", "got 2 that cannot")
    assert "image '1': expected labels 0..4 or 255 (void) for 'data/ann_dir/val/1.png'; got the value 5" in ended.err
    assert "image '3': expected labels 0..4 or 255 (void) for 'data/ann_dir/val/3.png'; got the value 77" in ended.err
    assert "INCOMPLETE: 4 of 6 images" in ended.out
    assert "of 4 of 6 images only" in ended.out
    assert "INCOMPLETE" in Path("c.svg").read_text()
    report = json.loads(Path("e.json").read_text())
    assert (report["images"], report["complete"]) == (4, False)
    assert [one["name"] for one in report["unused"]] == ["1", "3"]


def test_a_size_that_the_artifact_does_not_take(main, one_line, onnx_artifact, labelled_root):
    """Every picture fails for one reason: one line for all of them."""
    ended = main("eval", onnx_artifact.folder, "--data", labelled_root, "--scales", "8", "--limit", "2")
    one_line(ended, "2 images that can be evaluated")
    assert ended.err.count(" at scale 8; leave that scale out of --scales") <= 2
    assert "aAcc -   mIoU -   mAcc -   of 0 of 2 images only" in ended.out


def test_void_alone(main, onnx_artifact, labelled_root):
    """Dashes in the table, null in the file, an empty picture: no NaN anywhere, and no error."""
    root = Path(shutil.copytree(labelled_root, "data"))
    for path in (root / "ann_dir" / "val").iterdir():
        cv2.imwrite(str(path), np.full(cv2.imread(str(path), cv2.IMREAD_UNCHANGED).shape, 255, np.uint8))
    ended = main("eval", onnx_artifact.folder, "--data", root, "--json", "e.json", "--confusion", "c.png")
    assert ended.status == 0, ended.err
    assert "aAcc -   mIoU -   mAcc -" in ended.out
    assert "nan" not in (ended.out + Path("e.json").read_text()).lower()
    assert json.loads(Path("e.json").read_text())["miou"] is None
    assert Path("c.png").stat().st_size > 0


def test_mistakes_are_answered_before_anything_is_evaluated(main, one_line, onnx_artifact, labelled_root):
    """Scales that are no numbers, contradicting modes, a picture of another format: one line each, nothing written."""
    for arguments, told in (
        (("--scales", "1,x"), "numbers for --scales"),
        (("--scales", "0"), "scales above 0"),
        (("--crop", "12"), "HxW for --crop"),
        (("--stride", "x"), "HxW for --stride"),
        (("--mode", "whole", "--crop", "32x32"), "--mode slide"),
        (("--crop", "32x32", "--stride", "33x32"), "a stride of at most 32x32"),
        (("--confusion", "c.pdf"), ".svg or .png"),
    ):
        ended = main("eval", onnx_artifact.folder, "--data", labelled_root, *arguments)
        one_line(ended, told)
        assert ended.out == ""
    assert main("eval", onnx_artifact.folder, "--processes", "0").status == 2
    assert not list(Path().iterdir())
