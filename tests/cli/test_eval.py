import json
from pathlib import Path

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


def test_a_class_may_be_called_anything(capsys):
    """Brackets in a class's name are shown, not read as markup."""
    from segdeploy.cli.eval import show_evaluation
    from segdeploy.core.metrics import ClassScore, Evaluation

    score = ClassScore("b[/] [red]", 50.0, 60.0, 7)
    show_evaluation("title", Evaluation(miou=50.0, macc=60.0, aacc=70.0, classes=(score,), images=1))
    assert "b[/] [red]" in capsys.readouterr().out
