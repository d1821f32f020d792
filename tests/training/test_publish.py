from __future__ import annotations

import hashlib
import pickle
import re
import shutil

import numpy as np
import pytest
import torch

from segdeploy.base.errors import CheckpointError, InputError
from segdeploy.images.dataset import find_samples
from segdeploy.images.decode import read_image
from segdeploy.models.checkpoint import load_checkpoint
from segdeploy.runtime import open_session
from segdeploy.runtime.open import eager_artifact
from segdeploy.training.publish import publish


@pytest.fixture
def training(run):
    """What MMEngine wrote in a training: weights, optimizer, schedulers and message hub."""
    return run.work_dir / "epoch_1.pth"


@pytest.fixture
def averaged(training, tmp_path):
    """A checkpoint of a training with EMA, laid out by MMEngine's own hook; and its weights of the last step."""
    from mmengine.hooks import EMAHook
    from mmengine.model import ExponentialMovingAverage

    class Weights(torch.nn.Module):
        """As many parameters as the checkpoint has tensors, under the same names."""

        def state_dict(self, *, prefix="", **_kwargs):
            return {prefix + key: value for key, value in self.values.items()}

    content = torch.load(training, weights_only=False)
    last = dict(content["state_dict"])
    hook = EMAHook()
    hook.ema_model = ExponentialMovingAverage(torch.nn.Linear(1, 1))
    hook.ema_model.module = Weights()
    hook.ema_model.module.values = {key: value + 1 if value.is_floating_point() else value for key, value in last.items()}
    ema = {f"module.{key}": value for key, value in hook.ema_model.module.values.items()}
    hook.ema_model.state_dict = lambda: {**ema, "steps": torch.tensor(5)}
    hook.before_save_checkpoint(None, content)
    torch.save(content, tmp_path / "ema.pth")
    return tmp_path / "ema.pth", last


def logits(path, image):
    with open_session(eager_artifact(path), "cpu") as session:
        return session.run(image[None], logits=True).logits


def test_a_file_that_is_replaced_meanwhile(training, averaged, tmp_path, monkeypatch):
    """All that is published is of the bytes that were read first, whatever lies there afterwards."""
    expected = publish(training, tmp_path / "before", name="x")
    place = tmp_path / "latest.pth"
    shutil.copy(training, place)
    load = torch.load

    def replaced(*arguments, **options):
        content = load(*arguments, **options)
        shutil.copy(averaged[0], place)
        return content

    monkeypatch.setattr(torch, "load", replaced)
    found = publish(place, tmp_path / "after", name="x")
    assert found.path.read_bytes() == expected.path.read_bytes()
    assert (found.bytes_before, found.dropped, found.averaged) == (expected.bytes_before, expected.dropped, None)


def test_same_model(training, synthetic, tmp_path, one_thread):
    """The published weights give the same logits to the last bit, and their config and classes are with them."""
    published = publish(training, tmp_path).path
    image = read_image(find_samples(synthetic, "val")[0].image)
    before, after = logits(training, image), logits(published, image)
    assert before.size > 100
    np.testing.assert_array_equal(before, after)
    old, new = load_checkpoint(training), load_checkpoint(published)
    assert new.config == old.config
    assert new.dataset_meta == old.dataset_meta


def test_what_is_in_it(training, tmp_path):
    """Nothing but CPU weights and the meta that names them; torch loads it with weights_only and no exceptions."""
    result = publish(training, tmp_path)
    content, original = (torch.load(path, weights_only=only) for path, only in ((result.path, True), (training, False)))
    assert content.keys() == {"meta", "state_dict"}
    assert content["meta"].keys() <= original["meta"].keys()
    assert content["meta"].keys() >= {"cfg", "dataset_meta", "epoch", "iter", "mmengine_version"}
    assert list(content["state_dict"]) == list(original["state_dict"])
    assert all(value.device.type == "cpu" for value in content["state_dict"].values())
    assert set(result.dropped) == {"optimizer", "param_schedulers", "message_hub"}
    assert (result.bytes_before, result.bytes_after) == (training.stat().st_size, result.path.stat().st_size)
    assert result.bytes_after < result.bytes_before / 2
    assert result.averaged is None


def test_name(training, tmp_path):
    """The run's name and the first 8 digits of the file's SHA-256, which torch.hub finds in it; or a name of one's own."""
    path = publish(training, tmp_path).path
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert path.name == f"{training.parent.name}-{digest[:8]}.pth"
    assert torch.hub.HASH_REGEX.search(path.name).group(1) == digest[:8]
    assert publish(training, tmp_path, name="mine-12345678").path.name == f"mine-12345678-{digest[:8]}.pth"


def test_same_bytes(training, tmp_path):
    """The same checkpoint gives the same file: from another place, and when it is published again."""
    first = publish(training, tmp_path).path
    other = tmp_path / training.parent.name / "elsewhere.pth"
    other.parent.mkdir()
    shutil.copy(training, other)
    again = publish(other, tmp_path / "b", name="x").path
    assert again.read_bytes() == first.read_bytes()
    assert publish(first, tmp_path / "c").path.name == first.name
    assert [path.name for path in (tmp_path / "c").iterdir()] == [first.name]


def test_averaged_weights(averaged, tmp_path):
    """With EMA the averages are published, which MMEngine keeps in state_dict; --no-ema gives the last step's."""
    path, last = averaged
    default, asked, without = (publish(path, tmp_path / "out", ema=ema) for ema in (None, True, False))
    assert (default.averaged, asked.averaged, without.averaged) == (True, True, False)
    assert default.path == asked.path != without.path
    weights = torch.load(default.path, weights_only=True)["state_dict"]
    raw = torch.load(without.path, weights_only=True)["state_dict"]
    for key, value in last.items():
        assert torch.equal(raw[key], value)
        assert torch.equal(weights[key], value + 1 if value.is_floating_point() else value)
    assert "ema_state_dict" in default.dropped


def test_no_averaged_weights(training, tmp_path):
    """Where the training did not average, --ema and --no-ema are refused: nobody should believe that they got some."""
    for ema in (True, False):
        with pytest.raises(CheckpointError, match="EMAHook"):
            publish(training, tmp_path / "out", ema=ema)
    assert not (tmp_path / "out").exists()


def test_parts_of_larger_tensors(training, tmp_path):
    """A tensor that is a view of a large one is written as what it is."""
    content = torch.load(training, weights_only=False)
    key = next(key for key, value in content["state_dict"].items() if value.dim() == 1)
    value = content["state_dict"][key]
    content["state_dict"][key] = torch.cat([value, torch.zeros(3_000_000)])[: len(value)]
    torch.save(content, tmp_path / "large.pth")
    result, plain = publish(tmp_path / "large.pth", tmp_path), publish(training, tmp_path)
    assert result.bytes_before > 12_000_000
    assert result.bytes_after == plain.bytes_after


def test_config_goes_in(training, tmp_path):
    """Weights without a config get the one that is passed, and need none from then on."""
    torch.save(load_checkpoint(training).state_dict, tmp_path / "bare.pth")
    (tmp_path / "config.py").write_text(torch.load(training, weights_only=False)["meta"]["cfg"])
    with pytest.raises(CheckpointError, match="--config"):
        publish(tmp_path / "bare.pth", tmp_path)
    result = publish(tmp_path / "bare.pth", tmp_path, config=str(tmp_path / "config.py"))
    assert load_checkpoint(result.path).config["model"] == load_checkpoint(training).config["model"]
    assert result.dropped == ()


@pytest.mark.parametrize("damage", ["cut", "text", "pickle", "other weights", "none"])
def test_bad_checkpoints(training, tmp_path, damage):
    """A damaged or foreign file is one line that names it, runs no code, and nothing is written."""
    path = tmp_path / "bad.pth"
    if damage == "cut":
        path.write_bytes(training.read_bytes()[:-5000])
    elif damage == "text":
        path.write_text("weights")
    elif damage == "pickle":
        path.write_bytes(pickle.dumps(Hostile()))
    elif damage == "other weights":
        content = torch.load(training, weights_only=False)
        content["state_dict"] = {f"net.{key}": value for key, value in content["state_dict"].items()}
        torch.save(content, path)
    with pytest.raises(CheckpointError, match=r"bad\.pth") as caught:
        publish(path, tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


class Hostile:
    def __reduce__(self):
        return exec, ("raise SystemError('code from a checkpoint ran')",)


def test_interrupted(training, tmp_path, monkeypatch):
    """A write that fails leaves nothing behind, and a folder that cannot be written is one line."""
    with monkeypatch.context() as patch:
        patch.setattr("pathlib.Path.write_bytes", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            publish(training, tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=re.escape(str(tmp_path / "file"))):
        publish(training, tmp_path / "file")
