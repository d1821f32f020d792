"""Epochs from iterations and back."""

from __future__ import annotations

import pytest
from mmengine.config import Config

from segdeploy.base.errors import ConfigError
from segdeploy.training.schedule import change_length, iterations_per_epoch, length_of


def epoch_config():
    """40 epochs with a warm-up by iteration and a decay by epoch."""
    return Config(
        {
            "train_cfg": {"type": "EpochBasedTrainLoop", "max_epochs": 40, "val_interval": 4},
            "param_scheduler": [
                {"type": "LinearLR", "start_factor": 0.1, "by_epoch": False, "begin": 0, "end": 50},
                {"type": "CosineAnnealingLR", "T_max": 40, "by_epoch": True, "begin": 0, "end": 40},
            ],
            "train_dataloader": {"sampler": {"type": "DefaultSampler", "shuffle": True}},
            "default_hooks": {"checkpoint": {"by_epoch": True, "interval": 4}, "logger": {"log_metric_by_epoch": True}},
            "log_processor": {"by_epoch": True},
        }
    )


def test_longer():
    """The decay reaches to the new end, the warm-up and the intervals stay."""
    config = epoch_config()
    change_length(config, 80, "epochs", 10)
    warmup, decay = config.param_scheduler
    assert (warmup.end, decay.end, decay.T_max) == (50, 80, 80)
    assert (config.train_cfg.max_epochs, config.train_cfg.val_interval) == (80, 4)
    assert config.default_hooks.checkpoint.interval == 4


def test_there_and_back():
    """To iterations and back to epochs is where it began, but for the decay, which now moves with each iteration."""
    config, before = epoch_config(), epoch_config()
    change_length(config, 400, "iterations", 10)
    assert config.train_cfg == {"type": "IterBasedTrainLoop", "max_iters": 400, "val_interval": 40}
    assert config.param_scheduler[1]["end"] == config.param_scheduler[1]["T_max"] == 400
    assert config.train_dataloader.sampler.type == "InfiniteSampler"
    assert config.default_hooks == {"checkpoint": {"by_epoch": False, "interval": 40}, "logger": {"log_metric_by_epoch": False}}
    change_length(config, 40, "epochs", 10)
    assert config.param_scheduler[1].pop("convert_to_iter_based") is True
    assert config.to_dict() == before.to_dict()


def test_milestones():
    """Steps of the learning rate keep their place in the run."""
    config = Config(
        {
            "train_cfg": {"max_iters": 100},
            "param_scheduler": {"type": "MultiStepLR", "by_epoch": False, "milestones": [60, 80]},
            "train_dataloader": {},
        }
    )
    change_length(config, 20, "epochs", 10)
    assert config.param_scheduler.milestones == [12, 16]


@pytest.mark.parametrize(
    ("images", "batch", "processes", "drop_last", "expected"),
    [(1464, 16, 1, True, 91), (1464, 16, 1, False, 92), (10582, 4, 2, True, 1322), (3, 8, 1, True, 1)],
)
def test_iterations_per_epoch(images, batch, processes, drop_last, expected):
    """As many as a DataLoader over a DefaultSampler has."""
    from mmengine.dataset import DefaultSampler
    from torch.utils.data import DataLoader

    assert iterations_per_epoch(images, batch, processes, drop_last=drop_last) == expected
    if processes == 1 and expected > 1:
        data = range(images)
        loader = DataLoader(data, batch_size=batch, sampler=DefaultSampler(data, seed=0), drop_last=drop_last)
        assert len(loader) == expected


def test_neither():
    """A loop of another kind is one line."""
    with pytest.raises(ConfigError, match="max_epochs or max_iters"):
        length_of(Config({"train_cfg": {"type": "Own"}}), 10)
