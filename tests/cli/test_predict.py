import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segdeploy.images.decode import read_image
from segdeploy.runtime.predictor import predict_labels


@pytest.mark.parametrize("backend", ["eager", "onnx"])
def test_masks_and_overlays(request, main, backend, eager, checkpoint_path, images_folder):
    """For a folder of pictures: masks whose values are the labels at the pictures' own sizes, and overlays to look at."""
    target = checkpoint_path if backend == "eager" else request.getfixturevalue("onnx_artifact").folder
    ended = main("predict", target, images_folder, "--out", "out/deep")
    assert ended.status == 0, ended.err
    assert ended.out == "6 of 6 files: out/deep\n"
    pictures = sorted(images_folder.iterdir())
    assert len(list(Path("out/deep").iterdir())) == 2 * len(pictures)
    for path in pictures:
        image = read_image(path)
        with Image.open(f"out/deep/{path.stem}_mask.png") as mask:
            assert mask.mode == "P"
            labels = np.array(mask)
            assert mask.getpalette()[3:6] == [200, 0, 0]
        assert (labels != predict_labels(eager, image)).sum() <= 1
        shown = read_image(Path(f"out/deep/{path.stem}_overlay.png"))
        height, width = image.shape[:2]
        assert shown.shape[0] > height, "the legend is below"
        assert (shown[:height, :width] != image).any()


def test_the_newest_checkpoint_by_default(main, checkpoint_path, images_folder):
    """With pictures alone the newest checkpoint is taken."""
    Path("work_dirs/run").mkdir(parents=True)
    shutil.copy(checkpoint_path, "work_dirs/run/epoch_1.pth")
    ended = main("predict", images_folder / "0.png", images_folder / "1.png", "--out", "out")
    assert ended.status == 0, ended.err
    assert ended.out.startswith("2 of 2 files")


def test_one_bad_picture_does_not_cost_the_others(main, one_line, onnx_artifact, images_folder):
    """The good ones are written, the bad one is named, nothing is written for it, and the exit is 1."""
    Path("bad.png").write_bytes(b"not a picture")
    ended = main("predict", onnx_artifact.folder, images_folder / "0.png", "bad.png", images_folder / "1.png", "--out", "out")
    one_line(ended, "'bad.png'")
    assert ended.out.startswith("2 of 3 files")
    assert sorted(path.name for path in Path("out").iterdir()) == [
        "0_mask.png",
        "0_overlay.png",
        "1_mask.png",
        "1_overlay.png",
    ]


def test_bad_inputs(main, one_line, onnx_artifact, images_folder):
    """No model, no picture, an empty folder, an output that is a file: one line each, and nothing written."""
    Path("empty").mkdir()
    Path("file").touch()
    picture = images_folder / "0.png"
    one_line(main("predict", picture, "--out", "out"), "segdeploy train")
    one_line(main("predict", "none.pth", picture, "--out", "out"), "no such file")
    one_line(main("predict", onnx_artifact.folder, "--out", "out"), "only a model")
    one_line(main("predict", onnx_artifact.folder, "empty", "--out", "out"), "pictures or videos in 'empty'")
    one_line(main("predict", onnx_artifact.folder, "none.png", "--out", "out"), "'none.png'")
    assert not Path("out").exists()
    one_line(main("predict", onnx_artifact.folder, picture, "--out", "file"), "a folder that can be written")


def test_two_images_of_one_name_are_refused(main, one_line, onnx_artifact, images_folder, tmp_path):
    """Both results would have the same file name."""
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "1.png").write_bytes((images_folder / "1.png").read_bytes())
    one_line(main("predict", onnx_artifact.folder, images_folder / "1.png", "other/1.png", "--out", "out"), "'out/1_...'")
    assert not (tmp_path / "out").exists()


def test_choices(main, onnx_artifact, images_folder, tmp_path):
    """Sub folders, masks alone, no legend, several at once, and the shares as JSON."""
    import json

    (tmp_path / "deep" / "sub").mkdir(parents=True)
    for place in ("deep/1.png", "deep/sub/1.png", "deep/sub/2.png"):
        shutil.copy(images_folder / "1.png", tmp_path / place)
    options = ("--out", "out", "--recursive", "--batch", "2", "--json", "shares.json")
    ended = main("predict", onnx_artifact.folder, "deep", *options, "--no-legend", "--opacity", "0")
    assert ended.status == 0, ended.err
    assert (read_image(Path("out/sub/2_overlay.png")) == read_image(images_folder / "1.png")).all()
    shares = json.loads(Path("shares.json").read_text())
    assert [one["source"] for one in shares] == ["deep/1.png", "deep/sub/1.png", "deep/sub/2.png"]
    assert all(sum(one["shares"].values()) == pytest.approx(1) for one in shares)
    ended = main("predict", onnx_artifact.folder, "deep", "--out", "masks", "--save", "mask")
    assert [path.name for path in Path("masks").iterdir()] == ["1_mask.png"]
    assert main("predict", onnx_artifact.folder, "deep", "--out", "masks", "--save", "everything").status == 2


def test_the_limit_of_pixels(main, one_line, onnx_artifact, images_folder):
    """--max-pixels holds for every picture, and can be raised; the first has 7,500."""
    picture = images_folder / "0.png"
    ended = main("predict", onnx_artifact.folder, picture, "--out", "out", "--max-pixels", "7499")
    one_line(ended, "at most 0.007499 megapixels in '", "got 100x75", "--max-pixels")
    assert not list(Path("out").glob("*.png"))
    assert main("predict", onnx_artifact.folder, picture, "--out", "out", "--max-pixels", "7500").status == 0
