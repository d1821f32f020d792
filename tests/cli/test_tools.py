"""publish, plot and mmseg from the command line."""

import json
import shutil

import pytest
from PIL import Image

LOG = [{"lr": 0.1, "loss": 10 / at, "epoch": -(-at // 5), "iter": at, "step": at} for at in range(1, 21)]
LOG += [{"mIoU": 12.5, "step": 4}]


@pytest.fixture
def work_dir(tmp_path):
    folder = tmp_path / "work_dirs" / "[bold]small" / "20260101_000000" / "vis_data"
    folder.mkdir(parents=True)
    (folder / "scalars.json").write_text("\n".join(map(json.dumps, LOG)) + '\n{"lr": 0.1, "lo')
    return tmp_path / "work_dirs" / "[bold]small"


def test_publish(main, checkpoint_path, labelled_root):
    """The published file is evaluated without --config, to the same figures; sizes and the next command are shown."""
    ended = main("publish", checkpoint_path)
    assert ended.status == 0, ended.err
    path = ended.out.split()[0]
    assert path.startswith("published/tiny-")
    assert "MB, before" in ended.out
    assert f"next: segdeploy export {path} --to onnx" in ended.err
    for name, target in (("a", checkpoint_path), ("b", path)):
        ended = main("eval", target, "--data", labelled_root, "--json", f"{name}.json", "--threads", "1", "--device", "cpu")
        assert ended.status == 0, ended.err
    figures = []
    for name in ("a", "b"):
        with open(f"{name}.json") as stream:  # noqa: PTH123  in the command's own folder
            found = json.load(stream)
        figures.append((found["miou"], found["classes"]))
    assert figures[0] == figures[1]


def test_publish_takes_the_newest(main, checkpoint_path, tmp_path):
    """Without a checkpoint the newest under work_dirs/, called by its run."""
    (tmp_path / "work_dirs" / "my_run").mkdir(parents=True)
    shutil.copy(checkpoint_path, tmp_path / "work_dirs" / "my_run" / "epoch_3.pth")
    assert main("publish", "--out", "gift").out.startswith("gift/my_run-")
    assert main("publish", "--name", "mine").out.startswith("published/mine-")


def test_publish_bad_input(main, one_line, checkpoint_path, tmp_path):
    """No checkpoint, a cut one, no averaged weights, a name that is a path: one line each, and no folder is made."""
    (tmp_path / "cut.pth").write_bytes(checkpoint_path.read_bytes()[:5000])
    one_line(main("publish"), "work_dirs")
    one_line(main("publish", "cut.pth"), "cut.pth")
    one_line(main("publish", checkpoint_path, "--ema"), "EMAHook")
    one_line(main("publish", checkpoint_path, "--name", "../up"), "'../up'")
    assert not (tmp_path / "published").exists()


def test_plot(main, work_dir, tmp_path):
    """Without arguments: the newest run, its figures as a table and as JSON, a picture, and a note on the cut line."""
    ended = main("plot", "--json", "run.json")
    assert ended.status == 0, ended.err
    assert Image.open(tmp_path / "curves.png").format == "PNG"
    assert "[bold]small" in ended.out
    assert "12.50" in ended.out
    assert "[bold]small: 1 line of its logs is damaged and left out" in ended.err
    assert "written: curves.png" in ended.err
    assert json.loads((tmp_path / "run.json").read_text()) == [
        {"name": "[bold]small", "iterations": 20, "epochs": 4.0, "last_loss": 0.5, "best_miou": 12.5, "best_at": 4.0}
    ]


def test_plot_keys(main, work_dir, tmp_path):
    """Several runs and chosen scalars into an SVG."""
    other = shutil.copytree(work_dir, tmp_path / "other")
    ended = main("plot", work_dir, other, "--keys", "loss, mIoU", "--out", "deep/x.svg")
    assert ended.status == 0, ended.err
    text = (tmp_path / "deep" / "x.svg").read_text()
    assert "other" in text
    assert "learning rate" not in text


def test_plot_bad_input(main, one_line, work_dir, tmp_path):
    """No run, a folder without logs, an unknown scalar, a file that is no picture: one line each, nothing written."""
    one_line(main("plot", work_dir, "--keys", "los"), "did you mean loss?")
    one_line(main("plot", work_dir, "--out", "x.gif"), ".png")
    one_line(main("plot", tmp_path / "none"), "no such folder")
    one_line(main("plot", tmp_path / "work_dirs"), "name a run in it: [bold]small")
    shutil.rmtree(work_dir)
    one_line(main("plot"), "work_dirs")
    assert list(tmp_path.glob("*.*")) == []


def test_mmseg_lists(main):
    """Without a tool: all of them by group, with a line each, and what to use where one fails."""
    ended = main("mmseg")
    assert ended.status == 0, ended.err
    lines = ended.out.splitlines()
    assert [line for line in lines if not line.startswith(" ")] == [
        "dataset_converters:",
        "model_converters:",
        "analysis_tools:",
        "misc:",
        "deployment:",
        "torchserve:",
        "runners:",
    ]
    assert any(line.startswith("  get_flops ") and "FLOPs" in line for line in lines)
    assert any("publish_model" in line and "use: segdeploy publish" in line for line in lines)


def test_mmseg_passes_arguments_on(main, monkeypatch):
    """--help, -h, -- and unknown options go to the tool as they are."""
    given = []
    monkeypatch.setattr("segdeploy.training.mmseg_tools.run_tool", lambda tool, arguments: given.append((tool.name, arguments)))
    for arguments in (["--help"], ["-h"], ["a", "--", "-x", "--out=b c"], ["--version"], []):
        assert main("mmseg", "get_flops", *arguments).status == 0
    assert given == [("get_flops", one) for one in (["--help"], ["-h"], ["a", "--", "-x", "--out=b c"], ["--version"], [])]


def test_mmseg_status(main, one_line):
    """A tool's help and its exit status are its own; an unknown tool is one line with what is close."""
    assert main("mmseg", "get_flops", "--help").out.startswith("usage: get_flops.py ")
    assert main("mmseg", "get_flops").status == 2
    one_line(main("mmseg", "get_flop"), "did you mean get_flops?")
    one_line(main("mmseg", "print_config", "no_such_config"), "'no_such_config'")
    one_line(main("mmseg", "voc_aug", "none", "none"), "use: segdeploy data voc")
    one_line(main("mmseg", "confusion_matrix", "--help"), "use: segdeploy eval --confusion FILE")
