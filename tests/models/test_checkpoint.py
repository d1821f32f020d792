import hashlib
import os
import shutil
import zipfile

import numpy as np
import pytest

from segdeploy.base.errors import CheckpointError, ConfigError
from segdeploy.models.checkpoint import bare_checkpoint, load_checkpoint, load_plain


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


def as_numpy_1(path):
    """Rename a module in a checkpoint's pickle, as numpy 1 would have written it: nothing else differs at protocol 2."""
    new, old = b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n"
    if not zipfile.is_zipfile(path):
        data = path.read_bytes()
        assert new in data
        path.write_bytes(data.replace(new, old))
        return
    with zipfile.ZipFile(path) as archive:
        members = {info.filename: archive.read(info) for info in archive.infolist()}
    (name,) = (one for one in members if one.endswith("/data.pkl"))
    assert new in members[name]
    members[name] = members[name].replace(new, old)
    with zipfile.ZipFile(path, "w") as archive:
        for one, data in members.items():
            archive.writestr(one, data)


@pytest.mark.parametrize("legacy", [False, True])
def test_a_checkpoint_of_numpy_1(tmp_path, config_values, legacy):
    """What mmseg 1.x users hold: arrays and scalars of every common type, and history buffers, by numpy 1's module names."""
    import torch
    from mmengine.config import Config
    from mmengine.logging import MessageHub

    hub = MessageHub.get_instance("test_numpy_1")
    hub.update_scalar("val/mIoU", np.float64(42.5))
    hub.update_info("best_score", np.float32(0.5))
    kinds = ("f8", "f4", "f2", "i8", "i4", "i2", "i1", "u8", "u4", "u2", "u1", "?")
    content = {
        "meta": {"cfg": Config(config_values).pretty_text, "dataset_meta": {"palette": np.arange(15).reshape(5, 3)}},
        "state_dict": {"w": torch.ones(1)},
        "message_hub": hub.state_dict(),
        "arrays": {kind: np.ones(3, kind) for kind in kinds} | {"text": np.array(["a", "bc"])},
        "scalars": [np.dtype(kind).type(1) for kind in kinds],
        "generator": np.random.RandomState(0).get_state()[1],
    }
    path = tmp_path / "iter_1.pth"
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    as_numpy_1(path)
    loaded = load_plain(path)
    for kind, array in content["arrays"].items():
        np.testing.assert_array_equal(loaded["arrays"][kind], array)
        assert loaded["arrays"][kind].dtype == array.dtype
    assert loaded["scalars"] == content["scalars"]
    np.testing.assert_array_equal(loaded["generator"], content["generator"])
    buffer = loaded["message_hub"]["log_scalars"]["val/mIoU"]
    assert buffer.current() == 42.5
    assert buffer.mean(1) == 42.5
    np.testing.assert_array_equal(load_checkpoint(path).dataset_meta["palette"], content["meta"]["dataset_meta"]["palette"])


@pytest.mark.parametrize("name", ["fromfile", "frombuffer", "fromstring", "set_typeDict", "set_string_function"])
@pytest.mark.parametrize("module", ["numpy.core.multiarray", "numpy._core.multiarray", "numpy"])
def test_numpys_other_functions_are_refused(tmp_path, module, name):
    """Two functions of numpy's module are let in, under its two names: not one that reads a file."""
    import torch

    path = tmp_path / "x.pth"
    torch.save({"state_dict": {"w": torch.ones(1)}, "a": np.ones(3)}, path, _use_new_zipfile_serialization=False)
    wanted = f"c{module}\n{name}\n".encode()
    data = path.read_bytes().replace(b"cnumpy._core.multiarray\n_reconstruct\n", wanted)
    assert wanted in data
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match=name):
        load_plain(path)


CLASSES_0X = ("background", "red", "green", "blue", "white")
PALETTE_0X = [[0, 0, 0], [1, 2, 3], [4, 5, 6], [7, 8, 9], [9, 9, 9]]


@pytest.fixture
def of_mmseg_0x(checkpoint_path, tmp_path):
    """The tiny checkpoint as mmcv 1's runner and mmseg 0.x wrote it, under numpy 1, in torch's old format."""
    import torch

    content = torch.load(checkpoint_path, weights_only=True)
    text = "norm_cfg = dict(type='SyncBN', requires_grad=True)\ndata = dict(samples_per_gpu=2)"
    meta = {
        "env_info": "sys.platform: linux\nPython: 3.8",
        "seed": 0,
        "exp_name": "old.py",
        "mmseg_version": "0.30.0+",
        "config": text,
        "CLASSES": CLASSES_0X,
        "PALETTE": PALETTE_0X,
        "epoch": 3,
        "iter": 700,
        "mmcv_version": "1.7.1",
        "time": "Sat Jan  1 00:00:00 2022",
        "hook_msgs": {"best_score": np.float64(0.5), "best_ckpt": "best_mIoU_iter_700.pth"},
    }
    optimizer = torch.optim.SGD([torch.ones(2, requires_grad=True)], lr=0.01, momentum=0.9).state_dict()
    path = tmp_path / "iter_700.pth"
    torch.save(
        {"meta": meta, "state_dict": content["state_dict"], "optimizer": optimizer},
        path,
        _use_new_zipfile_serialization=False,
    )
    as_numpy_1(path)
    return path


def test_a_checkpoint_of_mmseg_0x(of_mmseg_0x, checkpoint_path, config_file):
    """With mmseg 1's config it is the same model, and its classes and colours are those that it recorded."""
    import torch

    from segdeploy.models.build import build_model
    from segdeploy.models.describe import describe

    config = config_file("old", val_dataloader__dataset={"metainfo": {"classes": tuple("abcde")}})
    checkpoint = load_checkpoint(of_mmseg_0x, str(config))
    manifest = describe(checkpoint, name="old", fmt="onnx")
    assert manifest.classes == CLASSES_0X
    assert [list(colour) for colour in manifest.palette] == PALETTE_0X
    expected = build_model(load_checkpoint(checkpoint_path)).state_dict()
    for name, tensor in build_model(checkpoint).state_dict().items():
        assert torch.equal(tensor, expected[name])


def test_mmseg_0x_without_a_config(of_mmseg_0x):
    """Its own config is for mmseg 0.x: said, with what to pass."""
    with pytest.raises(CheckpointError, match=r"got one of mmseg 0\.x.*--config FILE"):
        load_checkpoint(of_mmseg_0x)


def test_hashed_and_loaded_are_the_same_bytes(checkpoint_path, tmp_path, monkeypatch):
    """A file that is replaced between hashing and loading, either way round: the hash is that of the weights in hand."""
    import torch

    path = tmp_path / "x.pth"
    shutil.copy(checkpoint_path, path)
    first = hashlib.sha256(path.read_bytes()).hexdigest()
    load = torch.load

    def replaced(*arguments, **options):
        path.write_bytes(b"something else")
        loaded = load(*arguments, **options)
        path.write_bytes(b"something else again")
        return loaded

    monkeypatch.setattr(torch, "load", replaced)
    assert load_checkpoint(path).sha256 == first


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
        content = {"meta": {"cfg": "model = dict(type='EncoderDecoder')"}, "state_dict": {"w": torch.ones(1)}, "extra": extra}
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


@pytest.mark.parametrize("arguments", [(np.ndarray, ("x",), b"b"), (np.ndarray, (-1,), b"b"), (int, (0,), b"b"), ()])
def test_forged_arrays(tmp_path, arguments):
    """numpy's own functions, called with what makes no array: one CheckpointError of one line, whatever they raise."""
    import torch

    class Forged:
        def __reduce__(self):
            return np._core.multiarray._reconstruct, arguments

    torch.save({"state_dict": {"w": torch.ones(1)}, "a": Forged()}, tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match=r"x\.pth") as caught:
        load_plain(tmp_path / "x.pth")
    assert "\n" not in str(caught.value)
