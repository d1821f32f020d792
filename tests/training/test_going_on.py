"""What `train --resume` goes on with: the run's own config, a schedule that follows, the validation that was cut off."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys

import pytest

from segdeploy.base.errors import InputError
from segdeploy.training.configure import Settings, configure
from segdeploy.training.train import train
from support.training import same

CONFIG = "upernet_r18_synthetic"


def rates(path):
    """The learning rate that a checkpoint goes on with."""
    import torch

    return [group["lr"] for group in torch.load(path, weights_only=False)["optimizer"]["param_groups"]]


def copied(run, place):
    shutil.copytree(run.work_dir, place)
    return place


def test_a_longer_run_has_the_longer_runs_rate(run, synthetic, tmp_path, tiny, capsys):
    """Resumed with more epochs, the learning rate is that of a run which had them from the beginning, bit for bit."""
    whole = train(CONFIG, Settings(work_dir=tmp_path / "whole", data_root=synthetic, options=tiny, epochs=3))
    place = copied(run, tmp_path / "longer")
    train(CONFIG, Settings(work_dir=place, data_root=synthetic, options=tiny, resume=True, epochs=3))
    assert rates(place / "epoch_3.pth") == rates(whole.work_dir / "epoch_3.pth")
    told = capsys.readouterr().err
    assert "resumed from epoch_1.pth: epoch 1 of 3, iteration 2 of 6; learning rate" in told
    assert "its schedule follows the new length" in told


def test_nothing_to_resume_starts_anew(synthetic, tmp_path, tiny, capsys):
    """The same command can be submitted again and again: the first time it starts, then it goes on."""
    settings = Settings(work_dir=tmp_path / "new", data_root=synthetic, options=tiny, resume=True)
    assert train(CONFIG, settings).checkpoint.is_file()
    assert "nothing to resume in" in capsys.readouterr().err


def test_a_run_goes_on_with_its_own_config(run, tmp_path, capsys):
    """Options and data are not typed again, and what the named config says otherwise is told."""
    place = copied(run, tmp_path / "run")
    config, _ = configure(CONFIG, Settings(work_dir=place, resume=True, epochs=2))
    assert config.model.decode_head.channels == 8
    assert config.train_dataloader.batch_size == 4
    assert "synthetic" in config.train_dataloader.dataset.data_root
    told = capsys.readouterr().err
    assert "model.decode_head.channels: 8 in the run" in told


def test_another_batch_or_number_of_processes_is_refused(run, tmp_path):
    """It would be another run; who means it says so."""
    place = copied(run, tmp_path / "run")
    with pytest.raises(InputError, match="4 images a step, as the run.*got 8"):
        configure(CONFIG, Settings(work_dir=place, resume=True, batch=8))
    with pytest.raises(InputError, match="1 processes, as the run.*got 2"):
        configure(CONFIG, Settings(work_dir=place, resume=True), world=2)
    config, _ = configure(CONFIG, Settings(work_dir=place, resume=True, resume_changed=True), world=2)
    assert config.train_dataloader.batch_size == 2, "the images a step are the run's"


def test_a_validation_that_was_cut_off_is_made_up_for(synthetic, tmp_path, tiny, monkeypatch):
    """Killed between its last checkpoint and the end of its validation, a run is validated when it is resumed; once."""
    from mmengine.runner import ValLoop

    place = tmp_path / "run"
    settings = {"work_dir": place, "data_root": synthetic, "options": tiny}
    with monkeypatch.context() as patch:
        patch.setattr(ValLoop, "run", lambda _: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            train(CONFIG, Settings(**settings))
    validate, runs = ValLoop.run, []
    monkeypatch.setattr(ValLoop, "run", lambda loop: (runs.append(1), validate(loop))[1])
    result = train(CONFIG, Settings(**settings, resume=True))
    assert runs == [1]
    assert result.miou is not None
    assert result.checkpoint.name == "best_mIoU_epoch_1.pth"
    assert train(CONFIG, Settings(**settings, resume=True)).checkpoint == result.checkpoint
    assert runs == [1]


@pytest.mark.slow
@pytest.mark.parametrize("kind", [signal.SIGTERM, signal.SIGUSR1])
def test_a_notice_saves_and_ends_and_the_resumed_run_is_the_same(synthetic, tmp_path, tiny, kind):
    """Told to end in the middle of an epoch, a run saves there; resumed, it ends with the weights of one that was not told."""
    options = tiny | {"train_dataloader.batch_size": "2", "model.decode_head.dropout_ratio": "0.5"}
    whole = train(CONFIG, Settings(work_dir=tmp_path / "whole", data_root=synthetic, options=options, epochs=2)).work_dir
    place = tmp_path / "told"
    code = f"""
import os, signal
from segdeploy.cli.main import main
from segdeploy.training.runner import PositionHook
step = PositionHook.before_train_iter
def told(self, runner, batch_idx, data_batch=None):
    if runner.iter == 5:
        os.kill(os.getpid(), {int(kind)})
    step(self, runner, batch_idx, data_batch)
PositionHook.before_train_iter = told
import sys
sys.argv = ["segdeploy", "train", {CONFIG!r}, "--work-dir", {str(place)!r}, "--data-root", {str(synthetic)!r}, "--epochs", "2",
            "--cfg-options", *{[f"{key}={value}" for key, value in options.items()]!r}]
main()
"""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 128 + kind, done.stderr
    assert "add --resume" in done.stderr
    assert (place / "last_checkpoint").read_text().endswith("stopped.pth")
    train(CONFIG, Settings(work_dir=place, resume=True))
    assert same(whole / "epoch_2.pth", place / "epoch_2.pth")
    assert not (place / "stopped.pth").exists()


@pytest.mark.parametrize("world", [1, 2, 4])
def test_a_recipe_is_the_same_on_any_number_of_processes(synthetic, tmp_path, world):
    """Sixteen images a step, and the rate for them, whether one process takes them or four."""
    config, _ = configure(
        "upernet_r50_voc12_512x512_200e",
        Settings(work_dir=tmp_path, data_root=synthetic, options={"model.decode_head.num_classes": "5"}),
        world=world,
    )
    assert config.train_dataloader.batch_size * world == config.segdeploy_total_batch == 16
    assert config.optim_wrapper.optimizer.lr == 0.01


def test_passes_of_a_step():
    """Sixteen images in four passes on each of two processes; as many steps, and a schedule as long in steps."""
    from mmengine.config import Config

    from segdeploy.training.batch import divide_batch

    config = Config(
        {
            "train_cfg": {"type": "IterBasedTrainLoop", "max_iters": 100, "val_interval": 20},
            "train_dataloader": {"batch_size": 16},
            "optim_wrapper": {"optimizer": {"lr": 0.01}},
            "param_scheduler": [{"type": "PolyLR", "begin": 10, "end": 100, "by_epoch": False}],
            "default_hooks": {"checkpoint": {"by_epoch": False, "interval": 50}},
            "auto_scale_lr": {"enable": True, "base_batch_size": 16},
        }
    )
    divide_batch(config, 16, processes=2, accumulate=4)
    assert config.train_dataloader.batch_size == 2
    assert config.optim_wrapper.accumulative_counts == 4
    assert (config.train_cfg.max_iters, config.train_cfg.val_interval) == (400, 80)
    assert (config.param_scheduler[0].begin, config.param_scheduler[0].end) == (40, 400)
    assert config.default_hooks.checkpoint.interval == 200
    assert 2 * config.train_dataloader.batch_size / config.auto_scale_lr.base_batch_size == 1, "the rate stays"


def test_images_that_cannot_be_shared(synthetic, tmp_path):
    """One line, with the next number that can."""
    from segdeploy.base.errors import ConfigError

    with pytest.raises(ConfigError, match="got 16; pass --batch 18"):
        configure("upernet_r50_voc12_512x512_200e", Settings(work_dir=tmp_path, data_root=synthetic), world=3)


def test_an_epoch_that_would_never_end(synthetic, tmp_path, capsys):
    """A loop by epoch that inherits an endless sampler gets one that ends, and is told."""
    options = {"train_dataloader.sampler.type": "InfiniteSampler"}
    config, _ = configure(CONFIG, Settings(work_dir=tmp_path, data_root=synthetic, options=options))
    assert config.train_dataloader.sampler.type == "DefaultSampler"
    assert "the sampler never ends one" in capsys.readouterr().err
