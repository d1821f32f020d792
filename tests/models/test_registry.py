"""A config stored in a checkpoint names what mmseg registered, and nothing else."""

import contextlib
import copy
import sys

import pytest

from segdeploy.base.errors import ConfigError
from segdeploy.models.build import build_model
from segdeploy.models.checkpoint import load_checkpoint
from segdeploy.models.registry import checked_config, checked_section, registered, without_imports


@pytest.fixture
def planted(config_values, checkpoint_path, tmp_path):
    """Writes the tiny checkpoint with a value set in the config inside: ``planted("model.neck", {...})``."""
    import torch
    from mmengine.config import Config

    def write(place, value):
        content = torch.load(checkpoint_path, weights_only=True)
        values = copy.deepcopy(config_values)
        *parents, last = place.split(".")
        node = values
        for name in parents:
            node = node[int(name) if name.isdigit() else name]
        if isinstance(node, list):
            node.append(value)
        else:
            node[last] = value
        content["meta"]["cfg"] = Config(values).pretty_text
        path = tmp_path / "planted.pth"
        torch.save(content, path)
        return path

    return write


@pytest.fixture
def evil_module(tmp_path, monkeypatch):
    """A module that can be imported, and that leaves a file when it is: as any in the folder where the user stands."""
    created = tmp_path / "created"
    (tmp_path / "evil_module.py").write_text(f"open({str(created)!r}, 'w').close()\ndef touch(**_): pass\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield created
    sys.modules.pop("evil_module", None)


SHELL = {"type": "os.system", "command": "touch created"}
REFUSED = {
    "model.backbone": SHELL,
    "model.type": "evil_module.touch",
    "model.neck": SHELL,
    "model.data_preprocessor.type": "subprocess.run",
    "model.decode_head.loss_decode": [{"type": "torch.hub.load", "repo_or_dir": "x", "model": "y"}],
    "model.decode_head.norm_cfg": {"type": "builtins.eval"},
    "model.decode_head.act_cfg": {"type": "evil_module"},
    "model.decode_head.conv_cfg": {"type": "functools.partial", "func": "os.system"},
    "model.decode_head.sampler": {"type": "UPerHead"},  # a module, where a sampler is wanted
    "model.backbone.norm_cfg": {"type": "OHEMPixelSampler"},  # and the reverse
    "model.backbone.dcn": {"type": "CityscapesDataset"},
    "model.backbone.plugins": [{"cfg": {"type": "os.system", "command": "touch created"}, "position": "after_conv1"}],
    "model.backbone._scope_": "evil_module",
    "model.decode_head._scope_": "os",
    "model.decode_head.loss_decode.class_weight": "https://example.org/weights.pkl",
    "model.auxiliary_head.loss_decode.class_weight": "weights.pkl",
    "model.decode_head.conv_cfg.padding_mode": "evil_module.touch",
    "model.neck.type": "mmseg.evil_module.touch",
    "model.backbone.type": "TIMMBackbone",
    "model.text_encoder": {"type": "CLIPTextEncoder"},
    "model.backbone.kind": {"type": b"ResNet"},
    "model.backbone.deep": {"er": ({"st": [{"type": ["os.system"]}]},)},
    "model.backbone.number": {"type": 3},
    "data_preprocessor": SHELL,
    "custom_hooks": [SHELL],
    "visualizer": {"type": "Visualizer", "vis_backends": [SHELL]},
    "test_evaluator.type": "evil_module.touch",
    "val_dataloader.dataset.type": "os.system",
    "val_dataloader.dataset._scope_": "evil_module",
    "val_dataloader.collate_fn": {"type": "pickle.load"},
    "test_pipeline": [{"type": "evil_module.touch"}],
    "optim_wrapper": {"type": "OptimWrapper", "optimizer": {"type": "os.execv"}},
}


@pytest.mark.parametrize("place", REFUSED)
def test_what_is_refused(place, config_values, evil_module, tmp_path, monkeypatch):
    """At every depth, under every key: one ConfigError that names the place, and nothing is imported or run."""
    monkeypatch.chdir(tmp_path)
    values = copy.deepcopy(config_values)
    *parents, last = place.split(".")
    node = values
    for name in parents:
        node = node.setdefault(name, {"type": "Conv2d"})
    node[last] = copy.deepcopy(REFUSED[place])
    with pytest.raises(ConfigError) as caught:
        checked_config(values, "'x.pth'")
    assert place in str(caught.value)
    assert "'x.pth'" in str(caught.value)
    assert "--config FILE" in str(caught.value)
    assert not evil_module.exists()
    assert not (tmp_path / "created").exists()
    assert "evil_module" not in sys.modules


def test_what_a_user_has_is_kept(config_values):
    """Names that stand for no import, outside the model: a hook and a data set of the user's own."""
    values = copy.deepcopy(config_values)
    values["custom_hooks"] = [{"type": "MyHook"}]
    values["val_dataloader"]["dataset"]["type"] = "MyDataset"
    values["custom_imports"] = {"imports": ["my_project"], "allow_failed_imports": False}
    checked = checked_config(values, "'x.pth'")
    assert "custom_imports" not in checked
    assert checked == {key: value for key, value in values.items() if key != "custom_imports"}


def test_a_data_set_of_the_users_own(planted):
    """Such a checkpoint is described by the classes that it recorded."""
    from segdeploy.models.describe import describe

    manifest = describe(load_checkpoint(planted("val_dataloader.dataset.type", "MyDataset")), name="x", fmt="onnx")
    assert manifest.classes == ("background", "red", "green", "blue", "white")


def test_initial_weights_are_never_fetched(planted):
    """Where the training's first weights came from does not matter any more, whatever it names."""
    path = planted("model.backbone.init_cfg", {"type": "Pretrained", "checkpoint": "https://example.org/x.pth"})
    assert build_model(load_checkpoint(path)) is not None


@pytest.mark.parametrize(
    ("kind", "name", "expected"),
    [
        ("MODELS", "UPerHead", "mmseg.models.decode_heads.uper_head.UPerHead"),
        ("MODELS", "mmseg.UPerHead", "mmseg.models.decode_heads.uper_head.UPerHead"),
        ("MODELS", "mmseg.models.UPerHead", "mmseg.models.decode_heads.uper_head.UPerHead"),
        ("MODELS", "mmseg.models.decode_heads.uper_head.UPerHead", "mmseg.models.decode_heads.uper_head.UPerHead"),
        ("MODELS", "mmengine.ReLU", "torch.nn.modules.activation.ReLU"),
        ("MODELS", "torch.nn.ReLU", "torch.nn.modules.activation.ReLU"),
        ("MODELS", "mmcv.cnn.ConvModule", "mmcv.cnn.bricks.conv_module.ConvModule"),
        ("DATASETS", "CityscapesDataset", "mmseg.datasets.cityscapes.CityscapesDataset"),
        ("DATASETS", "RepeatDataset", "mmengine.dataset.dataset_wrapper.RepeatDataset"),
        ("TRANSFORMS", "LoadImageFromFile", "mmcv.transforms.loading.LoadImageFromFile"),
        ("TASK_UTILS", "OHEMPixelSampler", "mmseg.structures.sampler.ohem_pixel_sampler.OHEMPixelSampler"),
    ],
)
def test_registered(kind, name, expected):
    """A name, one with its scope, and where a class lies, mean the class that mmseg's own registry gives."""
    import mmseg.registry

    found = registered(kind, name)
    assert f"{found.__module__}.{found.__qualname__}" == expected
    assert found is getattr(mmseg.registry, kind).get(name)


@pytest.mark.parametrize(
    "name", ["", ".", "os.system", "mmseg.", ".UPerHead", "mmseg.os.system", "torch.load", "mmseg", 3, None]
)
def test_not_registered(name):
    """What nobody registered is None."""
    assert registered("MODELS", name) is None


def test_what_others_register_is_not_trusted():
    """A class that some other package registered in mmseg's registry meanwhile does not count."""
    import torch
    from mmseg.registry import MODELS

    class Foreign(torch.nn.Module):
        pass

    MODELS.register_module(name="Foreign", module=Foreign)
    try:
        assert registered("MODELS", "Foreign") is None
    finally:
        MODELS.module_dict.pop("Foreign")


def test_the_newer_style(config_values, checkpoint_path):
    """A config of MMEngine's newer style names classes by where they lie: the same model is built, from registered names."""
    import torch

    places = {
        "EncoderDecoder": "mmseg.models.segmentors.EncoderDecoder",
        "UPerHead": "mmseg.models.UPerHead",
        "SyncBN": "torch.nn.SyncBatchNorm",
        "ResNetV1c": "mmseg.models.backbones.resnet.ResNetV1c",
        "SegDataPreProcessor": "mmseg.models.SegDataPreProcessor",
    }

    def rename(value):
        if isinstance(value, dict):
            return {k: places.get(v, v) if k == "type" else rename(v) for k, v in value.items()}
        return [rename(one) for one in value] if isinstance(value, (list, tuple)) else value

    checked = checked_config({**config_values, "model": rename(config_values["model"])}, "'x.pth'")
    assert checked["model"]["type"] == "EncoderDecoder"
    assert checked["model"]["decode_head"]["norm_cfg"]["type"] == "SyncBN"
    from dataclasses import replace

    checkpoint = load_checkpoint(checkpoint_path)
    newer = build_model(replace(checkpoint, config=checked)).state_dict()
    for name, tensor in build_model(checkpoint).state_dict().items():
        assert torch.equal(tensor, newer[name])


def test_every_family_that_builds_passes():
    """mmseg's own models can be stored in a checkpoint: only those that reach out, or are of another package, are refused."""
    from mmengine.config import Config

    from segdeploy.models.configs import config_families, find_config

    refused = set()
    for family, names in config_families().items():
        try:
            model = Config.fromfile(find_config(f"mmseg::{family}/{names[0]}")).to_dict()["model"]
        except ImportError:  # needs a package that is not there
            continue
        try:
            checked_section(model, "MODELS", "model", "it")
        except ConfigError:
            refused.add(family)
    assert refused <= {"vpd", "san", "maskformer"}


def test_building_imports_nothing(evil_module):
    """The second wall: an argument that is itself a name, as ``padding_mode`` of mmcv's ConvModule, is not imported."""
    from mmcv.cnn import ConvModule
    from mmengine.registry import MODELS

    own = ({"type": "evil_module.touch"}, {"type": "ReLU", "_scope_": "evil_module"})
    with without_imports():
        with pytest.raises((KeyError, RuntimeError)):
            ConvModule(3, 3, 3, padding_mode="evil_module")
        for one in own:
            with contextlib.suppress(KeyError, RuntimeError):
                MODELS.build(dict(one))
    assert not evil_module.exists()
    assert MODELS.build(dict(own[0])) is None  # the user's own config may
    assert evil_module.exists()


def test_a_config_of_the_users_own_may_name_anything(planted, tmp_path, evil_module):
    """What ``--config`` passes is the user's own code: a class of theirs by its dotted name is imported and built."""
    (tmp_path / "my_project.py").write_text("from mmseg.models import ResNetV1c\nclass MyBackbone(ResNetV1c): pass\n")
    path = planted("model.backbone.type", "my_project.MyBackbone")
    with pytest.raises(ConfigError, match=r"model\.backbone\.type"):
        load_checkpoint(path)
    import torch

    config = tmp_path / "config.py"
    config.write_text(torch.load(path, weights_only=True)["meta"]["cfg"])
    checkpoint = load_checkpoint(path, str(config))
    assert checkpoint.config_trusted
    assert type(build_model(checkpoint).backbone).__name__ == "MyBackbone"
    assert evil_module
