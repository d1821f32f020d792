from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from segdeploy.base.errors import InputError
from segdeploy.cli.main import cli
from segdeploy.training.train import Settings, TrainResult


def invoke(*arguments):
    return CliRunner().invoke(cli, arguments)


def test_synth(tmp_path):
    """`data synth` writes what was asked for, and names the command that comes next."""
    root = tmp_path / "data"
    result = invoke("data", "synth", "--root", str(root), "--train", "2", "--val", "1", "--size", "40x56")
    assert result.exit_code == 0, result.output
    assert len(list(root.rglob("*.jpg"))) == 3
    assert f"segdeploy train upernet_r18_synthetic --data-root {root}" in result.output


def test_synth_with_other_classes_promises_no_config(tmp_path):
    """With another number of classes there is no config of ours to name."""
    result = invoke("data", "synth", "--root", str(tmp_path / "d"), "--train", "1", "--val", "1", "--classes", "3")
    assert result.exit_code == 0, result.output
    assert "segdeploy train" not in result.output


def test_synth_many_classes(tmp_path):
    """So many names that only the first are told."""
    arguments = ("--train", "1", "--val", "1", "--size", "32x40", "--classes", "255")
    result = invoke("data", "synth", "--root", str(tmp_path / "d"), *arguments)
    assert result.exit_code == 0, result.output
    assert "255 classes: background, circle, " in result.output
    assert "striped blade and 234 more\n" in result.output


@pytest.mark.parametrize("arguments", [("--classes", "256"), ("--size", "31x64"), ("--size", "64x8193")])
def test_synth_beyond_its_limits(tmp_path, arguments):
    """More classes or pixels than there can be is an error of ours, and nothing is written."""
    result = invoke("data", "synth", "--root", str(tmp_path / "d"), *arguments)
    assert isinstance(result.exception, InputError)
    assert not list(tmp_path.iterdir())


def test_synth_bad_size(tmp_path):
    """A size that is none is an error of ours."""
    result = invoke("data", "synth", "--root", str(tmp_path / "d"), "--size", "big")
    assert isinstance(result.exception, InputError)
    assert not (tmp_path / "d").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ("--cfg-options", "a=1", "b.c=x=y"),
        ("--cfg-options", "a=1", "--cfg-options", "b.c=x=y"),
    ],
)
def test_train_options(monkeypatch, tmp_path, arguments):
    """Every option reaches the trainer; --cfg-options takes several pairs, as mmseg's does."""
    given = {}

    def train(config, settings):
        given.update(config=config, settings=settings)
        return TrainResult(tmp_path / "best.pth", 81.234, tmp_path)

    monkeypatch.setattr("segdeploy.training.train.train", train)
    flags = ("--resume", "--amp", "--channels-last", "--compile", "--auto-scale-lr")
    values = ("--work-dir", "w", "--data-root", "d", "--seed", "4", "--load-from", "c.pth", "--epochs", "3")
    result = invoke("train", "some_config", *flags, *values, *arguments)
    assert result.exit_code == 0, result.output
    assert given == {
        "config": "some_config",
        "settings": Settings(
            work_dir=Path("w"),
            data_root=Path("d"),
            resume=True,
            load_from="c.pth",
            epochs=3,
            amp=True,
            channels_last=True,
            compile=True,
            auto_scale_lr=True,
            seed=4,
            options={"a": "1", "b.c": "x=y"},
        ),
    }
    assert f"checkpoint: {tmp_path / 'best.pth'}" in result.output
    assert "81.23 %" in result.output
    assert f"segdeploy export {tmp_path / 'best.pth'} --to onnx" in result.output


def test_next_command_is_short_where_it_can_be(monkeypatch, tmp_path):
    """A checkpoint under work_dirs is what export takes by itself; no mIoU is not shown as one."""
    monkeypatch.chdir(tmp_path)
    made = TrainResult(Path("work_dirs/x/epoch_1.pth"), None, Path("work_dirs/x"))
    monkeypatch.setattr("segdeploy.training.train.train", lambda *a, **k: made)
    result = invoke("train", "x")
    assert "segdeploy export --to onnx" in result.output
    assert "not measured" in result.output


@pytest.mark.parametrize("pair", [("--epochs", "--iterations"), ("--gpus", "--processes")])
def test_options_that_exclude_each_other(pair):
    """Two lengths, or two kinds of processes, are wrong usage."""
    assert invoke("train", "x", pair[0], "2", pair[1], "2").exit_code == 2


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--nodes", "2"), "--master HOST:PORT"),
        (("--nodes", "2", "--node-rank", "2", "--master", "a:1"), "--node-rank 0..1"),
        (("--gpus", "64"), "64 GPUs"),
    ],
)
def test_machines_that_are_not_there(arguments, said):
    """What is missing to start several processes is one line, before any is started."""
    result = invoke("train", "upernet_r18_synthetic", *arguments)
    assert isinstance(result.exception, InputError)
    assert said in str(result.exception)


def test_train_option_without_value():
    """A --cfg-options without '=' is wrong usage."""
    assert invoke("train", "x", "--cfg-options", "nonsense").exit_code == 2


def test_interrupted_says_how_to_go_on(monkeypatch):
    """After Ctrl-C the way to go on is --resume, not the same command."""

    def train(*_args, **_kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("segdeploy.training.train.train", train)
    ended = invoke("train", "x")
    assert ended.exit_code == 130
    assert ended.output == "interrupted; what was saved is kept: add --resume to go on from the last checkpoint\n"


def test_unknown_config_is_one_line(tmp_path):
    """From a shell: exit 1, one line on stderr, no traceback."""
    code = "from segdeploy.cli.main import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, "train", "upernet_r18_syntetic"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert "upernet_r18_synthetic.py" in done.stderr
