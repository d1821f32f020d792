from __future__ import annotations

import logging
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segdeploy.base.errors import CheckpointError, ConfigError, DivergedError, InputError
from segdeploy.models.checkpoint import load_checkpoint
from segdeploy.training.runner import whole_files
from segdeploy.training.train import Settings, configure, train

CONFIG = "upernet_r18_synthetic"


def log_of(work_dir):
    return "".join(path.read_text() for path in sorted(work_dir.glob("*/*.log")))


def test_checkpoint_runs_no_code(run):
    """What training writes loads with weights_only, optimizer state and all, and has its config and classes."""
    for path in run.work_dir.glob("*.pth"):
        checkpoint = load_checkpoint(path)
        assert checkpoint.config["model"]["decode_head"]["num_classes"] == 5
        assert checkpoint.dataset_meta["classes"][0] == "background"
    assert {path.name for path in run.work_dir.glob("*.pth")} == {"epoch_1.pth", run.checkpoint.name}


def test_result_is_of_the_checkpoint(run):
    """The mIoU returned is the one that the log states, and the log is complete."""
    text = log_of(run.work_dir)
    assert f"mIoU: {run.miou:.4f}" in text
    assert "Epoch(train)" in text
    assert run.checkpoint.name == "best_mIoU_epoch_1.pth"


def test_resume_goes_on(run, synthetic, tmp_path, tiny):
    """A resumed run starts at the epoch after the last one, also when its folder was moved."""
    place = tmp_path / "moved"
    shutil.copytree(run.work_dir, place, ignore=shutil.ignore_patterns("2*"))
    train(CONFIG, Settings(work_dir=place, data_root=synthetic, resume=True, options=tiny | {"train_cfg.max_epochs": "2"}))
    text = log_of(place)
    assert "Epoch(train) [2]" in text
    assert "Epoch(train) [1]" not in text
    assert load_checkpoint(place / "epoch_2.pth").config["train_cfg"]["max_epochs"] == 2


def test_console_stays_clean(run, capfd):
    """What MMEngine logs after a run goes neither to the console nor into an error about a closed stream."""
    from mmengine.logging import print_log

    print_log("a line after the run", logger="current", level=logging.WARNING)
    shown = capfd.readouterr()
    assert (shown.out, shown.err) == ("", "")


@pytest.mark.parametrize("damage", ["cut", "pickle"])
def test_resume_from_a_bad_checkpoint(run, synthetic, tmp_path, damage, tiny):
    """A cut checkpoint is one line, and one that would run code is refused before MMEngine sees it."""
    path = tmp_path / "epoch_1.pth"
    path.write_bytes((run.work_dir / path.name).read_bytes()[:9000] if damage == "cut" else pickle.dumps(Hostile()))
    (tmp_path / "last_checkpoint").write_text(str(path))
    with pytest.raises(CheckpointError, match=r"epoch_1\.pth"):
        train(CONFIG, Settings(work_dir=tmp_path, data_root=synthetic, resume=True, options=tiny))


class Hostile:
    def __reduce__(self):
        return exec, ("raise SystemError('code from a checkpoint ran')",)


def test_no_data(tmp_path):
    """A missing data set is said before anything is built."""
    with pytest.raises(InputError, match="segdeploy data synth"):
        train(CONFIG, Settings(work_dir=tmp_path / "run", data_root=tmp_path / "none"))
    assert not (tmp_path / "run").exists()


def test_missing_image(synthetic, tmp_path, tiny):
    """A file that the list names and that is gone is found before training, by name."""
    shutil.copytree(synthetic, tmp_path / "data")
    (tmp_path / "data/VOCdevkit/VOC2012/JPEGImages/train_00005.jpg").unlink()
    with pytest.raises(InputError, match=r"train_00005\.jpg"):
        train(CONFIG, Settings(work_dir=tmp_path / "run", data_root=tmp_path / "data", options=tiny))


def test_no_images(synthetic, tmp_path, tiny):
    """An empty list is one line that names it, and not a run of nothing, nor what MMEngine says of it."""
    shutil.copytree(synthetic, tmp_path / "data")
    (tmp_path / "data/VOCdevkit/VOC2012/ImageSets/Segmentation/train.txt").write_text("\n")
    with pytest.raises(InputError, match=r"expected images in the list '.*Segmentation/train\.txt'; got none"):
        train(CONFIG, Settings(work_dir=tmp_path / "run", data_root=tmp_path / "data", options=tiny))


def test_no_images_in_a_folder(labelled_root, tmp_path, tiny):
    """The same where a config names folders and no lists."""
    shutil.copytree(labelled_root, tmp_path / "data")
    (tmp_path / "data/img_dir/train").mkdir()
    (tmp_path / "data/ann_dir/train").mkdir()
    folders = {
        f"{part}_dataloader.dataset.{key}": value
        for part in ("train", "val")
        for key, value in {
            "ann_file": "",
            "data_prefix.img_path": f"img_dir/{part}",
            "data_prefix.seg_map_path": f"ann_dir/{part}",
        }.items()
    }
    with pytest.raises(InputError, match=r"expected images in the folder '.*img_dir/train'; got none"):
        configure(CONFIG, Settings(work_dir=tmp_path / "run", data_root=tmp_path / "data", options=tiny | folders))


def test_fewer_images_than_a_batch(synthetic, tmp_path, tiny):
    """Where the last batch is dropped and there is no other, nothing would be learned: refused."""
    with pytest.raises(InputError, match="at least one batch of 16"):
        train(CONFIG, Settings(work_dir=tmp_path, data_root=synthetic, options=tiny | {"train_dataloader.batch_size": "16"}))


def test_other_classes(synthetic, tmp_path, tiny):
    """Data with other classes than the config's are refused, with the way out."""
    shutil.copytree(synthetic, tmp_path / "data")
    (tmp_path / "data" / "classes.json").write_text('{"classes": ["background", "circle"], "palette": [[0, 0, 0], [1, 1, 1]]}')
    with pytest.raises(InputError, match="--classes 5"):
        train(CONFIG, Settings(work_dir=tmp_path / "run", data_root=tmp_path / "data", options=tiny))


@pytest.mark.parametrize(
    "options",
    [
        {"model.backbone.type": "NoSuchNet"},
        {"train_dataloader.dataset.pipeline.0.type": "NoSuchTransform"},
        {"optim_wrapper.optimizer.type": "NoSuchOptimizer"},
        {"model.backbone.depth": "7"},
    ],
)
def test_config_that_does_not_fit(synthetic, tmp_path, options, tiny):
    """A config that cannot be built is one line, whichever part is wrong."""
    with pytest.raises(ConfigError) as caught:
        train(CONFIG, Settings(work_dir=tmp_path, data_root=synthetic, options=tiny | options))
    assert "\n" not in str(caught.value)


def test_diverged(synthetic, tmp_path, tiny):
    """A loss that is no number ends the run, and names the images of the batch."""
    with pytest.raises(DivergedError, match=r"train_0000\d\.jpg"):
        train(CONFIG, Settings(work_dir=tmp_path, data_root=synthetic, options=tiny | {"optim_wrapper.optimizer.lr": "1e20"}))


@pytest.mark.parametrize("split", ["train", "val"])
def test_label_without_a_class(synthetic, tmp_path, tiny, split):
    """A mask of one class more than the model has is one line that names it, in training as in validation."""
    root = shutil.copytree(synthetic, tmp_path / "data")
    folder = root / "VOCdevkit" / "VOC2012" / "SegmentationClass"
    for path in folder.glob(f"{split}_*.png"):
        label = np.array(Image.open(path))
        label[:] = np.where(label == 255, 255, 5)
        Image.fromarray(label).save(path)
    with pytest.raises(InputError, match=rf"labels 0 to 4 in '.*{split}_0000\d\.png'; got label 5; .*data check"):
        train(CONFIG, Settings(work_dir=tmp_path / "run", data_root=root, options=tiny))


def test_amp_needs_cuda(synthetic, tmp_path, tiny):
    """--amp without CUDA is refused, not ignored."""
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    with pytest.raises(InputError, match="--amp"):
        train(CONFIG, Settings(work_dir=tmp_path, data_root=synthetic, amp=True, options=tiny))


def test_data_root_reaches_wrapped_data_sets(tmp_path):
    """--data-root is set in every part of a concatenated data set."""
    voc = make_voc(tmp_path)
    config, _ = configure("upernet_r50_voc12aug_512x512_200e", Settings(data_root=tmp_path, seed=7))
    assert [one.data_root for one in config.train_dataloader.dataset.datasets] == [str(voc.resolve())] * 2
    assert config.val_dataloader.dataset.data_root == str(voc.resolve())
    assert config.randomness == {"seed": 7}


def make_voc(root):
    """The folders and lists that a VOC config asks for; the image that these name is not there."""
    voc = root / "VOCdevkit" / "VOC2012"
    for folder in ("JPEGImages", "SegmentationClass", "SegmentationClassAug", "ImageSets/Segmentation"):
        (voc / folder).mkdir(parents=True)
    for split in ("train", "val", "aug"):
        (voc / "ImageSets" / "Segmentation" / f"{split}.txt").write_text("2007_000001\n")
    return voc


def test_checkpoints_are_whole(tmp_path, monkeypatch):
    """A write that fails leaves the older file and no rest."""
    from mmengine.fileio import LocalBackend

    path = tmp_path / "epoch_1.pth"
    path.write_bytes(b"older")
    before = LocalBackend.put
    with whole_files(), monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", lambda self, data: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            LocalBackend().put(b"newer", str(path))
    assert LocalBackend.put is before
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == {"epoch_1.pth": b"older"}


def test_channels_last(synthetic, tmp_path, tiny):
    """The network runs in NHWC memory order, and its checkpoint is a checkpoint like any other."""
    import torch

    orders = []

    def hook(module, inputs, output):
        if isinstance(output, torch.Tensor) and output.ndim == 4 and min(output.shape[1:]) > 1:
            orders.append(output.is_contiguous(memory_format=torch.channels_last) and not output.is_contiguous())

    handle = torch.nn.modules.module.register_module_forward_hook(hook)
    try:
        result = train(CONFIG, Settings(work_dir=tmp_path, data_root=synthetic, channels_last=True, options=tiny))
    finally:
        handle.remove()
    assert sum(orders) > 0.9 * len(orders) > 0
    load_checkpoint(result.checkpoint)


def test_compile_is_for_training_alone(synthetic, run, tmp_path, tiny, monkeypatch):
    """Each part is one graph of torch's compiler, run at the crop's size in training steps alone; it learns the same."""
    import torch

    compile_for_real, graphs, calls = torch.compile, [], []

    def as_it_is(graph, _):
        """A compiler's last part, which generates code, left out: the graph that was captured runs as it is."""
        name = f"graph {len(graphs)}"
        graphs.append(name)

        def call(*inputs):
            calls.append((name, torch.is_grad_enabled()))
            return graph(*inputs)

        return call

    monkeypatch.setattr(torch, "compile", lambda part: compile_for_real(part, backend=as_it_is))
    compiled = train(CONFIG, Settings(work_dir=tmp_path, data_root=synthetic, compile=True, options=tiny))
    assert calls == [("graph 0", True), ("graph 1", True)] * 2  # the backbone's and the head's, in each of two steps
    ours, plain = (load_checkpoint(one.checkpoint).state_dict for one in (compiled, run))
    for name, values in plain.items():
        torch.testing.assert_close(ours[name], values, msg=lambda text, name=name: f"{name}: {text}")
