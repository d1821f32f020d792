"""--load-from: what fits is taken, what does not is listed."""

from __future__ import annotations

import http.server
import threading

import pytest
import torch

from segdeploy.base.errors import CheckpointError, InputError
from segdeploy.training.train import Settings, train
from segdeploy.training.weights import fit_weights, local_file

CONFIG = "upernet_r18_synthetic"


def test_fit():
    """Names with a prefix of DistributedDataParallel, another shape, one missing, one too many."""
    model = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Linear(3, 4))
    given = {
        "module.0.weight": torch.zeros(3, 2),
        "module.0.bias": torch.zeros(3),
        "module.1.weight": torch.zeros(9, 3),
        "module.head": torch.zeros(1),
    }
    fit, weights = fit_weights(model, {"state_dict": given})
    assert set(weights) == {"0.weight", "0.bias"}
    assert fit.loaded == 2
    assert fit.missing == ("1.bias",)
    assert fit.reshaped == {"1.weight": ((9, 3), (4, 3))}
    assert fit.unused == ("head",)
    assert "(9, 3) in the checkpoint, (4, 3) in the model" in fit.lines()[0]


def test_fine_tuning(run, synthetic, tmp_path, tiny, capsys):
    """From five classes to three: all but the last layer are the checkpoint's, and the last layer is named."""
    options = tiny | {
        "model.decode_head.num_classes": "3",
        "optim_wrapper.optimizer.lr": "0.0",
        "param_scheduler": "[]",
        "train_dataloader.dataset.metainfo": "{'_delete_': True, 'classes': ('a', 'b', 'c')}",
        "val_dataloader.dataset.metainfo": "{'_delete_': True, 'classes': ('a', 'b', 'c')}",
    }
    from shutil import copytree

    data = copytree(synthetic, tmp_path / "data")
    (data / "classes.json").unlink()
    settings = Settings(work_dir=tmp_path / "run", data_root=data, load_from=str(run.checkpoint), options=options)
    # Labels of five classes: what matters is what was loaded before the first step.
    with pytest.raises(InputError, match="labels 0 to 2"):
        train(CONFIG, settings)
    said = capsys.readouterr().err
    assert "2 of another shape" in said
    assert "decode_head.conv_seg.weight: (5, 8, 1, 1) in the checkpoint, (3, 8, 1, 1) in the model" in said


def test_same_model_starts_from_the_weights(run, synthetic, tmp_path, tiny, capsys):
    """With a learning rate of 0 the trained parameters are those it started from."""
    options = tiny | {
        "optim_wrapper.optimizer.lr": "0.0",
        "optim_wrapper.optimizer.weight_decay": "0.0",
        "param_scheduler": "[]",
    }
    place = tmp_path / "run"
    train(CONFIG, Settings(work_dir=place, data_root=synthetic, load_from=str(run.checkpoint), options=options))
    before, after = (torch.load(path, weights_only=False)["state_dict"] for path in (run.checkpoint, place / "epoch_1.pth"))
    assert all(torch.equal(before[name], after[name]) for name in before if "running" not in name and "num_batches" not in name)
    assert "tensors loaded\n" in capsys.readouterr().err


def test_nothing_fits(synthetic, tmp_path, tiny):
    """Weights of another kind of model are refused."""
    torch.save({"state_dict": {"other": torch.zeros(3)}}, tmp_path / "other.pth")
    settings = Settings(work_dir=tmp_path / "run", data_root=synthetic, load_from=str(tmp_path / "other.pth"), options=tiny)
    with pytest.raises(CheckpointError, match="0 of the model's"):
        train(CONFIG, settings)


def test_resumed_model_has_to_fit(run, synthetic, tmp_path, tiny):
    """A run is not resumed with another model."""
    from shutil import copytree, ignore_patterns

    place = copytree(run.work_dir, tmp_path / "run", ignore=ignore_patterns("2*"))
    options = tiny | {"model.decode_head.channels": "16", "train_cfg.max_epochs": "2"}
    with pytest.raises(CheckpointError, match="of another shape"):
        train(CONFIG, Settings(work_dir=place, data_root=synthetic, resume=True, options=options))


def test_initial_weights_that_cannot_be_had(synthetic, tmp_path, tiny, monkeypatch):
    """Without a network, ImageNet weights are one line with the ways out."""
    import urllib.error

    def fail(*_args, **_kwargs):
        raise urllib.error.URLError("no network")

    monkeypatch.setattr("mmengine.runner.checkpoint.load_from_torchvision", fail)
    monkeypatch.setattr("torch.hub.download_url_to_file", fail)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "hub"))
    options = tiny | {"model.backbone.init_cfg": "{'type': 'Pretrained', 'checkpoint': 'https://127.0.0.1:9/x.pth'}"}
    with pytest.raises(CheckpointError, match="--load-from"):
        train(CONFIG, Settings(work_dir=tmp_path / "run", data_root=synthetic, options=options))


def test_url(tmp_path, monkeypatch):
    """A URL is fetched once; one that is not there is one line."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "hub"))
    torch.save({"state_dict": {"a": torch.zeros(1)}}, tmp_path / "w.pth")
    handler = lambda *a, **k: http.server.SimpleHTTPRequestHandler(*a, directory=str(tmp_path), **k)  # noqa: E731
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        base = f"http://127.0.0.1:{server.server_port}"
        path = local_file(f"{base}/w.pth")
        assert path.read_bytes() == (tmp_path / "w.pth").read_bytes()
        with pytest.raises(CheckpointError, match="none.pth"):
            local_file(f"{base}/none.pth")
        server.shutdown()
    assert local_file(f"{base}/w.pth") == path
    assert not (path.parent / "none.pth").exists()
