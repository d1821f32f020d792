"""A resumed run is the run it continues, and a killed one leaves something whole to resume."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys

import pytest

from segdeploy.models.checkpoint import load_checkpoint
from segdeploy.training.train import Settings, train
from support.training import same

CONFIG = "upernet_r18_synthetic"
# Augmentation, dropout and shuffling all draw random numbers; the last two epochs are after the interruption.
RANDOM = {
    "train_dataloader.dataset.pipeline.2.prob": "0.5",
    "model.decode_head.dropout_ratio": "0.5",
    "train_cfg.max_epochs": "4",
    "train_cfg.val_interval": "1",
    "param_scheduler.0.end": "4",
    "default_hooks.checkpoint.max_keep_ckpts": "1",
}
BY_ITERATION = {"default_hooks.checkpoint.interval": "2", "train_cfg.val_interval": "4"}


def stop_before(monkeypatch, iteration):
    """Interrupts a run as Ctrl-C does, before a given iteration."""
    from segdeploy.training.runner import PositionHook

    original = PositionHook.before_train_iter

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if runner.iter == iteration:
            raise KeyboardInterrupt
        original(self, runner, batch_idx, data_batch)

    monkeypatch.setattr(PositionHook, "before_train_iter", before_train_iter)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("extra", "workers", "stop", "last"),
    [
        ({"epochs": 4}, 0, 5, "epoch_4.pth"),  # in the third of four epochs of two iterations
        ({"epochs": 4}, 2, 3, "epoch_4.pth"),
        ({"iterations": 8}, 0, 5, "iter_8.pth"),
    ],
    ids=["epochs", "epochs-workers", "iterations"],
)
def test_resumed_run_ends_with_the_same_weights(synthetic, tmp_path, tiny, monkeypatch, extra, workers, stop, last):
    """Bit for bit, with shuffling, flips, dropout and momentum; also with another number of loader workers."""
    options = tiny | RANDOM | ({} if "epochs" in extra else BY_ITERATION)
    whole = train(CONFIG, Settings(work_dir=tmp_path / "whole", data_root=synthetic, options=options, **extra)).work_dir
    cut = Settings(
        work_dir=tmp_path / "cut",
        data_root=synthetic,
        options=options | {"train_dataloader.num_workers": str(workers)},
        **extra,
    )
    with monkeypatch.context() as patch:
        stop_before(patch, stop)
        with pytest.raises(KeyboardInterrupt):
            train(CONFIG, cut)
    assert not (cut.work_dir / last).exists()
    train(CONFIG, Settings(**{**vars(cut), "resume": True}))
    assert same(whole / last, cut.work_dir / last)


def test_another_seed_is_another_run(synthetic, tmp_path, tiny):
    """The comparison can fail: one seed more, and the weights differ."""
    runs = [train(CONFIG, Settings(work_dir=tmp_path / str(s), data_root=synthetic, options=tiny, seed=s)) for s in (0, 1)]
    with pytest.raises(AssertionError):
        same(*(run.work_dir / "epoch_1.pth" for run in runs))


KILLED = """
import sys, time
from pathlib import Path
from segdeploy.base import files
from segdeploy.training.train import Settings, train

write = Path.write_bytes
def half(self, data):
    if {name!r} in self.name:
        write(self, bytes(data)[: len(data) // 2])
        print("half", file=sys.__stdout__, flush=True)
        time.sleep(60)
    return write(self, data)
Path.write_bytes = half
train({config!r}, Settings(work_dir=Path({work_dir!r}), data_root=Path({data!r}), options={options!r}))
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", ["epoch_2.pth", "last_checkpoint"])
def test_kill_in_the_middle_of_a_write(run, synthetic, tmp_path, tiny, name):
    """kill -9 while a checkpoint is half on disk: the one before it is still there, whole, and is what gets resumed.

    ``max_keep_ckpts=1`` is the hard case: the new file takes the old one's place.
    """
    options = tiny | RANDOM | {"train_cfg.max_epochs": "2", "default_hooks.checkpoint.save_best": "None"}
    if name == "last_checkpoint":
        shutil.copytree(run.work_dir, tmp_path / "run", ignore=shutil.ignore_patterns("2*"))
    code = KILLED.format(name=name, config=CONFIG, work_dir=str(tmp_path / "run"), data=str(synthetic), options=options)
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=environment)
    assert child.stdout.readline() == "half\n"
    child.send_signal(signal.SIGKILL)
    child.wait()
    named = tmp_path / "run" / (tmp_path / "run" / "last_checkpoint").read_text().rpartition("/")[2]
    assert named.name == "epoch_1.pth"
    load_checkpoint(named)
    train(CONFIG, Settings(work_dir=tmp_path / "run", data_root=synthetic, options=options, resume=True))
    assert (tmp_path / "run" / "last_checkpoint").read_text().endswith("epoch_2.pth")
    assert not named.exists(), "with one checkpoint to keep, the older one goes once its successor is there"


def test_full_disk(run, synthetic, tmp_path, tiny, monkeypatch):
    """No room for the next checkpoint: one line, and the older one stays what gets resumed."""
    import errno
    from pathlib import Path

    from segdeploy.base.errors import InputError

    write = Path.write_bytes
    place = tmp_path / "run"
    shutil.copytree(run.work_dir, place, ignore=shutil.ignore_patterns("2*"))
    (place / "last_checkpoint").write_text(str(place / "epoch_1.pth"))

    def full(self, data):
        if "epoch_2.pth" in self.name:
            write(self, bytes(data)[:100])
            raise OSError(errno.ENOSPC, "No space left on device", str(self))
        return write(self, data)

    monkeypatch.setattr(Path, "write_bytes", full)
    options = tiny | {"train_cfg.max_epochs": "2"}
    with pytest.raises(InputError, match="room to write"):
        train(CONFIG, Settings(work_dir=place, data_root=synthetic, options=options, resume=True))
    load_checkpoint(place / "epoch_1.pth")
    assert (place / "last_checkpoint").read_text().endswith("epoch_1.pth")
    assert not [path for path in place.iterdir() if "epoch_2" in path.name]


def test_best_is_kept_until_its_successor_is_written(synthetic, tmp_path, tiny, monkeypatch):
    """At no moment of a run is there no best checkpoint, once there was one."""
    from mmengine.evaluator import Evaluator

    from segdeploy.training.runner import ExactRunner

    scores = iter([10.0, 20.0, 30.0])
    monkeypatch.setattr(Evaluator, "evaluate", lambda *_: {"mIoU": next(scores)})
    save, seen = ExactRunner.save_checkpoint, []

    def save_checkpoint(self, out_dir, filename, **more):
        save(self, out_dir, filename, **more)
        seen.append({path.name for path in tmp_path.glob("run/best_*")})

    monkeypatch.setattr(ExactRunner, "save_checkpoint", save_checkpoint)
    options = tiny | RANDOM | {"train_cfg.max_epochs": "3"}
    result = train(CONFIG, Settings(work_dir=tmp_path / "run", data_root=synthetic, options=options))
    assert result.checkpoint.name == "best_mIoU_epoch_3.pth"
    assert result.miou == 30.0
    assert {path.name for path in tmp_path.glob("run/best_*")} == {"best_mIoU_epoch_3.pth"}
    assert {"best_mIoU_epoch_1.pth", "best_mIoU_epoch_2.pth"} in seen
    first = next(index for index, names in enumerate(seen) if names)
    assert all(seen[first:])


def test_a_copied_run_leaves_the_original_alone(run, synthetic, tmp_path, tiny, monkeypatch):
    """A run resumed in a copy of its folder replaces the copy's best checkpoint, not the one whose path it remembers."""
    from mmengine.evaluator import Evaluator

    place = tmp_path / "copy"
    shutil.copytree(run.work_dir, place, ignore=shutil.ignore_patterns("2*"))
    monkeypatch.setattr(Evaluator, "evaluate", lambda *_: {"mIoU": 99.0})
    options = tiny | {"train_cfg.max_epochs": "2"}
    result = train(CONFIG, Settings(work_dir=place, data_root=synthetic, options=options, resume=True))
    assert [path.name for path in place.glob("best_*")] == [result.checkpoint.name] == ["best_mIoU_epoch_2.pth"]
    assert run.checkpoint.is_file()
