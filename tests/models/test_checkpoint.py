import hashlib
import os
import shutil

import numpy as np
import pytest

from segdeploy.base.errors import CheckpointError, ConfigError
from segdeploy.models.checkpoint import bare_checkpoint, load_checkpoint


@pytest.fixture
def saved(checkpoint_path, tmp_path):
    """The tiny checkpoint, changed and saved again."""
    import torch

    def save(change):
        content = torch.load(checkpoint_path, weights_only=True)
        change(content)
        torch.save(content, tmp_path / "changed.pth")
        return tmp_path / "changed.pth"

    return save


def test_what_it_holds(checkpoint_path, config_values):
    """Weights, config and classes as they were saved, with the hash of the file."""
    import torch

    checkpoint = load_checkpoint(checkpoint_path)
    plain = torch.load(checkpoint_path, weights_only=True)
    assert checkpoint.sha256 == hashlib.sha256(checkpoint_path.read_bytes()).hexdigest()
    assert checkpoint.config_sha256 == hashlib.sha256(plain["meta"]["cfg"].encode()).hexdigest()
    assert checkpoint.state_dict.keys() == plain["state_dict"].keys()
    assert checkpoint.config == config_values
    assert tuple(checkpoint.dataset_meta["classes"]) == tuple(plain["meta"]["dataset_meta"]["classes"])


def test_mmengines_own_checkpoint(tmp_path, config_values):
    """What MMEngine's Runner saves while it trains loads without running code: history buffers, optimiser, numpy scalars."""
    import torch

    from segdeploy.models.packages import load_mmseg

    load_mmseg()
    from mmengine.config import Config
    from mmengine.logging import HistoryBuffer, MessageHub

    hub = MessageHub.get_instance("test_checkpoint")
    hub.update_scalar("train/loss", np.float64(0.5))
    hub.update_scalar("train/count", torch.tensor(3.0))
    hub.update_info("iter", np.int64(7))
    state = {"weight": torch.ones(2)}
    content = {
        "meta": {"cfg": Config(config_values).pretty_text, "time": "now", "dataset_meta": {}},
        "state_dict": state,
        "message_hub": hub.state_dict(),
        "optimizer": torch.optim.AdamW([torch.ones(2, requires_grad=True)]).state_dict(),
        "param_schedulers": [{"last_step": np.float32(1.5), "array": np.arange(3)}],
    }
    assert any(isinstance(value, HistoryBuffer) for value in content["message_hub"]["log_scalars"].values())
    torch.save(content, tmp_path / "iter_7.pth")
    assert load_checkpoint(tmp_path / "iter_7.pth").state_dict["weight"].tolist() == [1, 1]


@pytest.mark.parametrize(
    "content",
    [b"", b"not a checkpoint\n" * 20, b"PK\x03\x04" + b"\0" * 60, b"\x80\x02}q\x00.", b"\x80\x02K\x01.", bytes(range(64))],
)
def test_no_checkpoint(tmp_path, content):
    """A text, an empty file, half an archive, a bare number: each one CheckpointError of one line."""
    path = tmp_path / "x.pth"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"x\.pth") as caught:
        load_checkpoint(path)
    assert "\n" not in str(caught.value)
    assert "weights_only" not in str(caught.value)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.99, 0.9999])
def test_truncated(checkpoint_path, tmp_path, share):
    """An interrupted download is a CheckpointError wherever it ended."""
    data = checkpoint_path.read_bytes()
    path = tmp_path / "x.pth"
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(CheckpointError, match="a complete PyTorch checkpoint") as caught:
        load_checkpoint(path)
    assert "\n" not in str(caught.value)


def test_missing(tmp_path):
    """A path without a file, or a folder, is said before anything else."""
    for path in (tmp_path / "none.pth", tmp_path):
        with pytest.raises(CheckpointError, match="no such file"):
            load_checkpoint(path)


def test_without_config(saved):
    """Weights alone ask for --config."""
    with pytest.raises(CheckpointError, match="--config FILE"):
        load_checkpoint(saved(lambda content: content["meta"].pop("cfg")))


def test_without_state_dict(saved):
    """A checkpoint without weights is said, with what it has instead."""
    with pytest.raises(CheckpointError, match="'state_dict' of tensors.*'meta'"):
        load_checkpoint(saved(lambda content: content.pop("state_dict")))


def test_a_bare_state_dict_with_a_config(tmp_path, checkpoint_path):
    """Weights saved alone work with the config beside them."""
    import torch

    content = torch.load(checkpoint_path, weights_only=True)
    torch.save(content["state_dict"], tmp_path / "bare.pth")
    config = tmp_path / "config.py"
    config.write_text(content["meta"]["cfg"])
    checkpoint = load_checkpoint(tmp_path / "bare.pth", str(config))
    assert checkpoint.state_dict.keys() == content["state_dict"].keys()
    assert checkpoint.config["model"]["type"] == "EncoderDecoder"


class Creates:
    """Creates a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


class Reaches:
    """Reaches for a builtin through getattr when it is unpickled."""

    def __init__(self, owner, name):
        self.arguments = owner, name

    def __reduce__(self):
        return getattr, self.arguments


@pytest.mark.parametrize("place", ["top", "meta", "state_dict"])
@pytest.mark.parametrize("legacy", [False, True])
def test_a_malicious_pickle_runs_nothing(tmp_path, place, legacy):
    """An object that would create a file when it is loaded: the error names it, and the file does not exist."""
    import torch

    created = tmp_path / "created"
    content = {"meta": {"cfg": "model = dict(type='EncoderDecoder')"}, "state_dict": {"w": torch.ones(1)}}
    (content if place == "top" else content[place])["evil"] = Creates(created)
    path = tmp_path / "evil.pth"
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(CheckpointError, match=r"tensors and plain data|cannot be read") as caught:
        load_checkpoint(path)
    assert "\n" not in str(caught.value)
    assert "weights_only" not in str(caught.value)
    assert "system" in str(caught.value)
    assert not created.exists()


def test_getattr_reaches_nothing_else(tmp_path):
    """The one use of getattr that history buffers need opens no way to anything else."""
    import torch
    from mmengine.logging import HistoryBuffer

    def load(extra):
        content = {"meta": {"cfg": "model = dict(type='x')"}, "state_dict": {"w": torch.ones(1)}, "extra": extra}
        torch.save(content, tmp_path / "x.pth")
        return load_checkpoint(tmp_path / "x.pth")

    mean = Reaches(HistoryBuffer, "mean")
    assert load(mean).state_dict["w"].item() == 1
    for owner, name in ((HistoryBuffer, "__init__"), (HistoryBuffer, "nope"), (np.ndarray, "tofile"), (mean, "__globals__")):
        with pytest.raises(CheckpointError, match=r"builtins\.getattr|cannot be read"):
            load(Reaches(owner, name))


def test_a_malicious_config_runs_nothing(saved, tmp_path):
    """The config inside a checkpoint is read as data: code in it is refused, and not run."""
    created = tmp_path / "created"

    def plant(content):
        content["meta"]["cfg"] = f"__import__('os').system('touch {created}')\n" + content["meta"]["cfg"]

    with pytest.raises(ConfigError, match="only literals") as caught:
        load_checkpoint(saved(plant))
    assert "\n" not in str(caught.value)
    assert not created.exists()


@pytest.mark.parametrize("text", ["", "model = 1", "model = dict(x=1)", "optimizer = dict(lr=1)"])
def test_a_config_without_a_model(saved, text):
    """A config that describes no model is a ConfigError of one line."""
    with pytest.raises(ConfigError, match="a 'model' with a 'type'"):
        load_checkpoint(saved(lambda content: content["meta"].update(cfg=text)))


@pytest.mark.parametrize("text", ["raise ValueError('a\\nb')", "model = (", "1 / 0", "_base_ = 'none.py'"])
def test_a_config_file_that_fails(checkpoint_path, tmp_path, text):
    """A trusted config that raises while it runs, whatever it raises, is a ConfigError of one line."""
    config = tmp_path / "config.py"
    config.write_text(text)
    for load in (lambda: load_checkpoint(checkpoint_path, str(config)), lambda: bare_checkpoint(str(config))):
        with pytest.raises(ConfigError, match="an mmseg config that loads") as caught:
            load()
        assert "\n" not in str(caught.value)


def test_a_config_file_that_is_missing(checkpoint_path, tmp_path):
    """A path without a file, and a name that mmseg does not have, are ConfigErrors."""
    for config in (str(tmp_path / "none.py"), "mmseg::none/none.py"):
        with pytest.raises(ConfigError):
            load_checkpoint(checkpoint_path, config)


def test_random_weights():
    """A config of mmseg's own by name, without weights."""
    checkpoint = bare_checkpoint("mmseg::pspnet/pspnet_r18-d8_4xb2-80k_cityscapes-512x1024.py")
    assert checkpoint.state_dict is None
    assert checkpoint.path is None
    assert checkpoint.config["model"]["decode_head"]["type"] == "PSPHead"


@pytest.mark.shared
def test_the_real_checkpoint(shared, tmp_path):
    """A checkpoint of a real run loads, from another folder too."""
    path = shutil.copy(shared / "checkpoints" / "camvid_upernet_r18.pth", tmp_path)
    assert len(load_checkpoint(tmp_path / "camvid_upernet_r18.pth").dataset_meta["classes"]) == 11
    assert path
