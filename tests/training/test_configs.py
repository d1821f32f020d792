"""Every config of ours builds, and is the recipe that it says it is.

The numbers are those of the recipe as published (SGD 0.01 for 16 images a step, poly to 1e-4) and of PASCAL VOC's lists.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytest

from segdeploy.base.errors import ConfigError
from segdeploy.models.configs import config_folder
from segdeploy.training.schedule import length_of
from segdeploy.training.train import Settings, _build_runner, configure

VOC, SBD_ALONE, VAL = 1464, 9118, 1449


@dataclass(frozen=True)
class Recipe:
    """What a config should say.

    Attributes:
        lists: of the training images, with the folder of their labels.
        batch: images a step of one process.
        per_epoch: iterations an epoch.
        length: (count, unit).
        rate: learning rate of the first and of the last step, of one process.
        validate: how often, in the unit.
        save: likewise.
    """

    lists: tuple[tuple[str, str], ...]
    batch: int
    per_epoch: int
    length: tuple[int, str]
    rate: tuple[float, float]
    validate: int
    save: int


TRAIN = (("train.txt", "SegmentationClass"),)
AUG = (*TRAIN, ("aug.txt", "SegmentationClassAug"))


def published(iterations):
    return Recipe(AUG, 16, math.ceil(10582 / 16), (iterations, "iterations"), (0.01, 1e-4), iterations // 10, iterations // 10)


RECIPES = {
    "upernet_r50_voc12_512x512_200e": Recipe(TRAIN, 16, 91, (200, "epochs"), (0.01, 1e-4), 10, 10),
    "upernet_r50_voc12aug_512x512_200e": Recipe(AUG, 16, 661, (200, "epochs"), (0.01, 1e-4), 10, 10),
    **{f"upernet_r{depth}_voc12aug_512x512_{k}k": published(1000 * k) for depth in (18, 50, 101) for k in (20, 40)},
}
SMALL = {"upernet_r18_synthetic", "deeplabv3plus_r50_synthetic", "upernet_r18_camvid_192x256_50e"}


@pytest.fixture(scope="module")
def voc(tmp_path_factory):
    """VOC's lists at their full length; nothing is read but these."""
    root = tmp_path_factory.mktemp("voc")
    folder = root / "VOCdevkit" / "VOC2012"
    for name in ("JPEGImages", "SegmentationClass", "SegmentationClassAug", "ImageSets/Segmentation"):
        (folder / name).mkdir(parents=True)
    for name, count in (("train", VOC), ("val", VAL), ("aug", SBD_ALONE)):
        lines = "".join(f"{name}_{index:05d}\n" for index in range(count))
        (folder / "ImageSets" / "Segmentation" / f"{name}.txt").write_text(lines)
    return root


def built(name, root, work_dir, **more):
    config, _ = configure(name, Settings(work_dir=work_dir, data_root=root, **more))
    return _build_runner(config, name)


def rates(runner):
    """Learning rate of the first step and of the last."""
    runner.scale_lr(runner.optim_wrapper, runner.auto_scale_lr)
    (scheduler,) = runner.build_param_scheduler(runner.param_schedulers)
    first = runner.optim_wrapper.get_lr()["lr"][0]
    for _ in range(scheduler.end):
        scheduler.step()
    return first, runner.optim_wrapper.get_lr()["lr"][0]


def test_every_config_is_held_here():
    """A new config needs a line in this file."""
    assert {path.stem for path in config_folder().glob("*.py")} == set(RECIPES) | SMALL


@pytest.mark.parametrize("name", RECIPES)
def test_recipe(name, voc, tmp_path):
    """Lists, batch, length, learning rate and intervals of a VOC config."""
    import torch

    recipe, runner = RECIPES[name], built(name, voc, tmp_path)
    dataset = runner.train_dataloader.dataset.dataset
    parts = getattr(dataset, "datasets", [dataset])
    lists = [(part.ann_file.rpartition("/")[2], part.data_prefix["seg_map_path"].rpartition("/")[2]) for part in parts]
    assert lists == list(recipe.lists)
    assert len(dataset) == VOC + (len(recipe.lists) > 1) * SBD_ALONE
    assert len(runner.val_dataloader.dataset) == VAL
    assert runner.train_dataloader.batch_size == recipe.batch
    length = length_of(runner.cfg, recipe.per_epoch)
    assert (length.count, length.unit) == recipe.length
    if length.unit == "epochs":  # by iteration, the sampler never ends
        assert len(runner.train_dataloader) == recipe.per_epoch
    assert runner.val_interval == recipe.validate
    assert runner.cfg.default_hooks.checkpoint.interval == recipe.save
    optimizer = runner.optim_wrapper.optimizer
    assert isinstance(optimizer, torch.optim.SGD)
    assert [optimizer.defaults[key] for key in ("momentum", "weight_decay")] == [0.9, 5e-4]
    assert rates(runner) == pytest.approx(recipe.rate)
    assert runner.model.decode_head.num_classes == 21
    assert runner.model.data_preprocessor.size == (512, 512)


def test_two_hundred_epochs_on_trainaug(voc, tmp_path):
    """Backbone weights of torchvision's layout; the last three checkpoints and the best are kept."""
    from torchvision.models import resnet50

    runner = built("upernet_r50_voc12aug_512x512_200e", voc, tmp_path)
    backbone = runner.model.backbone
    assert backbone.init_cfg == {"type": "Pretrained", "checkpoint": "torchvision://resnet50"}
    theirs = {name: tuple(value.shape) for name, value in resnet50().state_dict().items() if not name.startswith("fc.")}
    assert {name: tuple(value.shape) for name, value in backbone.state_dict().items()} == theirs
    hook = runner.cfg.default_hooks.checkpoint
    assert (hook.max_keep_ckpts, hook.save_best) == (3, "mIoU")


def test_the_pair_of_200_epochs_differs_in_its_data_alone():
    """Of all that MMEngine reads, only the training data; mmseg's pipeline for trainaug pads what the preprocessor pads."""
    import inspect

    from mmengine.runner import Runner

    from segdeploy.models.configs import load_config

    one, other = (load_config(f"upernet_r50_{name}_512x512_200e").to_dict() for name in ("voc12", "voc12aug"))
    read = [key for key in inspect.signature(Runner.__init__).parameters if key in one or key in other]
    assert {"model", "optim_wrapper", "param_scheduler", "train_cfg", "val_dataloader", "randomness"} <= set(read)
    assert [key for key in read if one.get(key) != other.get(key)] == ["train_dataloader"]
    ours, theirs = one["train_dataloader"], other["train_dataloader"]
    assert {key: value for key, value in ours.items() if key != "dataset"} == {
        k: v for k, v in theirs.items() if k != "dataset"
    }
    for part in theirs["dataset"]["datasets"]:
        assert [step for step in part["pipeline"] if step["type"] != "Pad"] == [
            {key: value for key, value in step.items() if key != "_scope_"} for step in ours["dataset"]["pipeline"]
        ]


def test_published_models_are_unchanged(voc, tmp_path):
    """The model of a published recipe is mmseg's own, key by key."""
    from mmengine.config import Config

    from segdeploy.models.configs import find_config

    theirs = Config.fromfile(find_config("mmseg::upernet/upernet_r101_4xb4-40k_voc12aug-512x512.py"))
    ours = Config.fromfile(find_config("upernet_r101_voc12aug_512x512_40k"))
    for key in ("model", "optim_wrapper", "param_scheduler", "train_cfg", "test_pipeline", "train_pipeline"):
        assert without_scope(ours[key]) == without_scope(theirs[key])


def without_scope(value):
    """MMEngine notes the package of a base that is another package's."""
    if isinstance(value, dict):
        return {key: without_scope(one) for key, one in value.items() if key != "_scope_"}
    return [without_scope(one) for one in value] if isinstance(value, (list, tuple)) else value


@pytest.mark.parametrize("name", sorted(SMALL))
def test_small_configs(name, synthetic, tmp_path):
    """The configs of small machines build, and their learning rate falls to its end."""
    root = synthetic
    if "camvid" in name:
        root = tmp_path / "camvid"
        for part in ("img_dir", "ann_dir"):
            for split in ("train", "val"):
                (root / part / split).mkdir(parents=True)
        for index in range(16):
            for split in ("train", "val"):
                (root / "img_dir" / split / f"{index}.jpg").touch()
    runner = built(name, root, tmp_path / "run")
    first, last = rates(runner)
    assert last == pytest.approx(runner.cfg.param_scheduler[0]["eta_min"])
    assert first > 100 * last


def test_epochs_from_iterations(voc, tmp_path):
    """A published recipe in epochs: the sampler ends, intervals are converted, the decay reaches to the new end."""
    from mmengine.runner import EpochBasedTrainLoop

    runner = built("upernet_r50_voc12aug_512x512_20k", voc, tmp_path, epochs=30)
    assert isinstance(runner.train_loop, EpochBasedTrainLoop)
    assert (runner.max_epochs, runner.max_iters, len(runner.train_dataloader)) == (30, 30 * 662, 662)
    assert runner.val_interval == 3  # 2,000 iterations
    hook = runner.cfg.default_hooks.checkpoint
    assert (hook.by_epoch, hook.interval) == (True, 3)
    (scheduler,) = runner.build_param_scheduler(runner.param_schedulers)
    assert (scheduler.begin, scheduler.end) == (0, 30 * 662)
    assert rates(runner) == pytest.approx((0.01, 1e-4))


def test_iterations_from_epochs(voc, tmp_path):
    """And back: the sampler does not end."""
    runner = built("upernet_r50_voc12_512x512_200e", voc, tmp_path, iterations=500)
    assert type(runner.train_loop).__name__ == "IterBasedTrainLoop"
    assert runner.max_iters == 500
    assert runner.cfg.train_dataloader.sampler.type == "InfiniteSampler"
    assert runner.val_interval == 500  # every ten epochs of 91 iterations would be beyond the end
    assert rates(runner) == pytest.approx((0.01, 1e-4))


def test_learning_rate_follows_the_batch(voc, tmp_path):
    """--auto-scale-lr: half the images a step, half the rate; without a base batch size it is refused."""
    runner = built("upernet_r50_voc12_512x512_200e", voc, tmp_path, auto_scale_lr=True, batch=8)
    assert rates(runner)[0] == pytest.approx(0.005)
    with pytest.raises(ConfigError, match="base_batch_size"):
        configure("upernet_r18_synthetic", Settings(work_dir=tmp_path, auto_scale_lr=True))


@pytest.mark.parametrize(("key", "meant"), [("train_cgf", "train_cfg"), ("optim_wraper", "optim_wrapper")])
def test_misspelt_key(tmp_path, synthetic, key, meant):
    """A key that MMEngine would silently ignore is one line, with the right one."""
    path = tmp_path / "mine.py"
    path.write_text(f"_base_ = ['{config_folder() / 'upernet_r18_synthetic.py'}']\n{key} = dict(max_epochs=2)\n")
    with pytest.raises(ConfigError, match=f"'{key}'.*'{meant}'"):
        configure(str(path), Settings(work_dir=tmp_path, data_root=synthetic))


def test_no_size_to_pad_to(tmp_path, voc):
    """mmseg's own config of this name cannot train, and says so only in the first step."""
    name = "mmseg::upernet/upernet_r18_4xb4-20k_voc12aug-512x512.py"
    with pytest.raises(ConfigError, match="data_preprocessor"):
        configure(name, Settings(work_dir=tmp_path, data_root=voc))
    configure(name, Settings(work_dir=tmp_path, data_root=voc, options={"model.data_preprocessor.size": "(512, 512)"}))
