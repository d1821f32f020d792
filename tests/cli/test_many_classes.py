"""More classes than a byte holds, and fewer colours than classes."""

import numpy as np
import pytest
from PIL import Image

from segdeploy.images.dataset import read_label
from segdeploy.images.decode import read_image
from segdeploy.runtime.predictor import predict_labels

NAMES = tuple(f"kind {index}" for index in range(300))


@pytest.fixture(scope="module")
def many(random_variant):
    """A checkpoint of 300 classes with three colours."""
    dataset = {"metainfo": {"classes": NAMES, "palette": [[0, 0, 0], [9, 9, 9], [8, 8, 8]]}}
    return random_variant("many", model__decode_head={"num_classes": 300}, val_dataloader__dataset=dataset)[0]


def test_more_than_256_classes(many, main, tmp_path, images_folder):
    """Exported, predicted and evaluated: the labels above 255 are those of the model, in the PNG and in the scores."""
    from segdeploy.runtime.open import eager_artifact, open_session

    exported = main("export", many, "--to", "onnx", "--out", "out", "--name", "many", "--no-verify")
    assert exported.status == 0, exported.err
    assert "has no colour for 297 of 300 classes" in exported.err
    ended = main("predict", "out/many/onnx-fp32", images_folder, "--save", "mask,overlay", "--out", "masks")
    assert ended.status == 0, ended.err
    data = tmp_path / "data"
    for part in ("img_dir", "ann_dir"):
        (data / part / "val").mkdir(parents=True)
    seen = set()
    with open_session(eager_artifact(many), "cpu", 1) as eager:
        assert len(set(eager.artifact.manifest.palette)) == 300
        for path in sorted(images_folder.iterdir()):
            expected = predict_labels(eager, read_image(path))
            written = tmp_path / "masks" / f"{path.stem}_mask.png"
            with Image.open(written) as mask:
                assert mask.mode == "I;16"
            labels = read_label(written)
            assert (labels != expected).mean() < 1e-3
            seen |= set(np.unique(labels).tolist())
            (data / "img_dir" / "val" / path.name).symlink_to(path)
            (data / "ann_dir" / "val" / path.name).symlink_to(written)
    assert max(seen) > 256
    scored = main("eval", "out/many/onnx-fp32", "--data", data)
    assert scored.status == 0, scored.err
    assert "100.00" in scored.out


@pytest.mark.parametrize("command", ["eval", "predict"])
def test_colours_that_nobody_gave_are_said_of_a_bare_checkpoint_too(many, main, labelled_root, images_folder, command):
    """In one line, as an export says it."""
    wanted = {"eval": ("--data", labelled_root, "--limit", "1"), "predict": (images_folder / "0.png", "--out", "masks")}
    ended = main(command, many, *wanted[command])
    assert ended.status == 0, ended.err
    assert [line for line in ended.err.splitlines() if "has no colour for 297 of 300 classes" in line] == [
        f"the palette of '{many}' has no colour for 297 of 300 classes: they get distinct ones"
    ]
