"""What of a config's data sets is looked at, and what never is: the walls behind the check of the config itself."""

import sys

import pytest

from segdeploy.base.errors import ConfigError
from segdeploy.models.datasets import config_ignore_index, config_layouts, dataset_class


@pytest.fixture
def of(tmp_path):
    """A config whose val set is this."""

    def make(**changes):
        dataset = {"type": "BaseSegDataset", "data_root": str(tmp_path), "data_prefix": {"img_path": "a", "seg_map_path": "b"}}
        return {"val_dataloader": {"dataset": {**dataset, **changes}}}

    return make


def test_a_class_that_nobody_registered_is_not_imported(tmp_path, monkeypatch):
    """Of a checkpoint's own config; the user's may name any."""
    (tmp_path / "evil_data.py").write_text("class Data: pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "evil_data", raising=False)
    assert dataset_class("evil_data.Data", trusted=False) is None
    assert "evil_data" not in sys.modules
    assert dataset_class("evil_data.Data", trusted=True).__name__ == "Data"
    assert dataset_class("BaseSegDataset", trusted=False).__name__ == "BaseSegDataset"


def test_a_file_that_a_stored_config_names_is_not_opened(of, tmp_path):
    """MMEngine reads the names of classes from a file where metainfo has a path."""
    (tmp_path / "secret").write_text("one\ntwo\n")
    config = of(metainfo={"classes": str(tmp_path / "secret")})
    assert config_layouts(config, trusted=False) == ()
    (layout,) = config_layouts(config, trusted=True)
    assert (layout.split, layout.images) == ("val", "a")


@pytest.mark.parametrize(
    "changes",
    [
        {"data_root": "s3://bucket/data"},
        {"ann_file": "http://127.0.0.1:9/list.txt"},
        {"data_prefix": {"img_path": "petrel://a", "seg_map_path": "b"}},
    ],
)
@pytest.mark.parametrize("trusted", [True, False])
def test_what_lies_elsewhere_is_not_fetched(of, changes, trusted):
    """It has no layout on this machine, whoever says so."""
    assert config_layouts(of(**changes), trusted=trusted) == ()
    assert len(config_layouts(of(), trusted=trusted)) == 1


@pytest.mark.parametrize(
    ("config", "index"),
    [
        ({"model": {}}, 255),
        ({"model": {"decode_head": {"ignore_index": 7}}}, 7),
        ({"model": {"decode_head": [{"ignore_index": 7}, {"ignore_index": 8}]}}, 8),
        ({"model": {"decode_head": {"ignore_index": 7}}, "val_evaluator": {"type": "IoUMetric", "ignore_index": 9}}, 9),
        ({"model": {"decode_head": {"ignore_index": 7}}, "val_evaluator": {"type": "mmseg.IoUMetric"}}, 255),
        (
            {
                "model": {},
                "test_evaluator": [{"type": "DepthMetric"}, {"type": "IoUMetric", "ignore_index": 5}],
                "val_evaluator": {"type": "IoUMetric", "ignore_index": 6},
            },
            5,
        ),
    ],
)
def test_the_index_of_void(config, index):
    """That of the metric, as mmseg evaluates; else the last head's; else 255."""
    assert config_ignore_index(config) == index


def test_an_index_that_is_no_number():
    """One line."""
    with pytest.raises(ConfigError, match="a whole number as ignore_index; got '255'"):
        config_ignore_index({"model": {"decode_head": {"ignore_index": "255"}}})
