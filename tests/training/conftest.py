"""A tiny synthetic data set, and one short run on it."""

from __future__ import annotations

import pytest

from segdeploy.training.synthetic import write_synthetic_voc
from segdeploy.training.train import Settings, train
from support.voc import tree

__all__ = ["run", "synthetic", "tiny", "tree"]

CONFIG = "upernet_r18_synthetic"
TINY = {
    "model.backbone.base_channels": "8",
    "model.decode_head.in_channels": "[8, 16, 32, 64]",
    "model.decode_head.channels": "8",
    "train_dataloader.batch_size": "4",
    "train_cfg.max_epochs": "1",
    "train_cfg.val_interval": "1",
}


@pytest.fixture(scope="session", autouse=True)
def _sooner(remembered_configs):
    """Nearly every test here trains, or builds what trains."""


@pytest.fixture(scope="session")
def tiny():
    """Options that make the model and the run as small as they get."""
    return dict(TINY)


@pytest.fixture(scope="session")
def synthetic(tmp_path_factory):
    root = tmp_path_factory.mktemp("data") / "synthetic"
    write_synthetic_voc(root, train=8, val=5, size=(48, 64), classes=5, seed=3)
    return root


@pytest.fixture(scope="session")
def run(synthetic, tmp_path_factory):
    """One epoch of two iterations."""
    return train(CONFIG, Settings(work_dir=tmp_path_factory.mktemp("run") / "tiny", data_root=synthetic, options=TINY))
