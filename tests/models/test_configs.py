from __future__ import annotations

import pytest

from segdeploy.base.errors import ConfigError
from segdeploy.models.config_text import parse_config_text
from segdeploy.models.configs import config_folder, find_config, load_config

OURS = sorted(path.stem for path in config_folder().glob("*.py"))


@pytest.mark.parametrize("name", OURS)
def test_our_configs_build(name):
    """Every config of ours loads, builds its model, and reads back as plain literals from a checkpoint."""
    config = load_config(name)
    from mmseg.registry import MODELS

    model = MODELS.build({**config.model, "pretrained": None})
    heads = [head for head in (model.decode_head, getattr(model, "auxiliary_head", None)) if head is not None]
    assert len({head.num_classes for head in heads}) == 1
    classes = (config.val_dataloader.dataset.get("metainfo") or {}).get("classes")
    assert classes is None or len(classes) == model.decode_head.num_classes
    assert parse_config_text(config.pretty_text, name)["model"]["type"] == "EncoderDecoder"


def test_three_ways_to_name_a_config(tmp_path):
    """A path, a name with or without its suffix, and mmseg's own configs are found."""
    own = tmp_path / "own.py"
    own.write_text("a = dict(b=1)\n")
    assert find_config(str(own)) == own
    assert find_config(OURS[0]) == find_config(OURS[0] + ".py") == config_folder() / f"{OURS[0]}.py"
    shipped = "mmseg::upernet/upernet_r50_4xb4-20k_voc12aug-512x512"
    assert find_config(shipped) == find_config(shipped + ".py")
    assert find_config(shipped).is_file()


@pytest.mark.parametrize(
    ("name", "close"),
    [
        ("upernet_r18_syntetic", "upernet_r18_synthetic.py"),
        ("mmseg::upernet/upernet_r50_4xb4-20k_voc12aug-512x51", "mmseg::upernet/upernet_r50_4xb4-20k_voc12aug-512x512.py"),
    ],
)
def test_unknown_config_names_close_ones(name, close):
    """A misspelt name is answered with the right one."""
    with pytest.raises(ConfigError) as caught:
        find_config(name)
    assert close in caught.value.fix


@pytest.mark.parametrize("text", ["a = (", "_base_ = ['missing.py']", "1 / 0"])
def test_broken_config_is_one_line(tmp_path, text):
    """Whatever a config raises becomes one line that names the file."""
    path = tmp_path / "broken.py"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"broken\.py") as caught:
        load_config(str(path))
    assert "\n" not in str(caught.value)


def test_options_keep_their_types(tmp_path):
    """Options become literals where they are such, and strings else."""
    path = tmp_path / "own.py"
    path.write_text("a = dict(b=1, c='x')\nd = [dict(e=1)]\n")
    config = load_config(str(path), {"a.b": "2.5", "a.c": "word", "d.0.e": "(1, 2)", "a.new": "true"})
    assert config.a == {"b": 2.5, "c": "word", "new": True}
    assert config.d[0]["e"] == (1, 2)


@pytest.mark.parametrize("key", ["aa.b", "a.b.c", "a.x.y", "d.7.e", "d.x"])
def test_option_for_a_key_that_is_not_there(tmp_path, key):
    """A misspelt branch is refused instead of set where nothing reads it."""
    path = tmp_path / "own.py"
    path.write_text("a = dict(b=1)\nd = [dict(e=1)]\n")
    with pytest.raises(ConfigError, match="cfg-options"):
        load_config(str(path), {key: "1"})
