import hashlib

import msgspec
import numpy as np
import pytest

from segdeploy.artifact.manifest import Bounds, Inference, Lineage, Resize
from segdeploy.base.errors import InputError
from segdeploy.export.calibration import choose_pictures, measure_ranges, network_inputs
from segdeploy.export.options import Calibration
from segdeploy.images.decode import read_image


def with_root(manifest, root):
    lineage = Lineage(checkpoint_sha256=None, config_sha256="d" * 64, data_root=str(root) if root else None)
    return msgspec.structs.replace(manifest, lineage=lineage, precision="int8")


@pytest.fixture
def data(tmp_path, labelled_root):
    """A data set with a train and a val split: the train split has ten pictures."""
    for part, suffix in (("img_dir", "jpg"), ("ann_dir", "png")):
        for split, count in (("train", 10), ("val", 3)):
            (tmp_path / part / split).mkdir(parents=True)
            for index in range(count):
                (tmp_path / part / split / f"{index:02}.{suffix}").write_bytes(bytes([index]))
    return tmp_path


def test_training_images_evenly_spaced(make_manifest, data):
    """Of ten training images four are taken, from the whole range; their contents are in the hash, in order."""
    pictures = choose_pictures(with_root(make_manifest(), data), Calibration(limit=4))
    assert [path.name for path in pictures.paths] == ["00.jpg", "02.jpg", "05.jpg", "07.jpg"]
    assert pictures.source == f"train of {data}"
    joined = b"".join(hashlib.sha256(bytes([index])).digest() for index in (0, 2, 5, 7))
    assert pictures.sha256 == hashlib.sha256(joined).hexdigest()


def test_what_is_named_comes_first(make_manifest, data, images_folder, labelled_root):
    """--calib before --data before the config's data set; a data set without a train split gives its val split."""
    manifest = with_root(make_manifest(), data)
    assert choose_pictures(manifest, Calibration(images=images_folder, data=data)).source == str(images_folder)
    chosen = choose_pictures(manifest, Calibration(data=labelled_root))
    assert (chosen.source, len(chosen.paths)) == (f"val of {labelled_root}", 6)


def test_no_pictures(make_manifest, tmp_path):
    """One line that says what to pass, also where the recorded folder is gone and where --calib is empty."""
    with pytest.raises(InputError, match="ranges of int8 on; got no data set recorded in the model's config; pass --calib DIR"):
        choose_pictures(with_root(make_manifest(), None), Calibration())
    with pytest.raises(InputError, match="no train or val split in '.*gone'"):
        choose_pictures(with_root(make_manifest(), tmp_path / "gone"), Calibration())
    with pytest.raises(InputError, match="images in"):
        choose_pictures(with_root(make_manifest(), None), Calibration(images=tmp_path))


def test_network_inputs(make_manifest):
    """A picture as inference would see it: resized, cut into crops, and within the artifact's bounds."""
    image = np.random.default_rng(0).integers(0, 256, (50, 60, 3), dtype=np.uint8)

    def shapes(**changes):
        return [batch.shape for batch in network_inputs(image, make_manifest(**changes))]

    base = make_manifest()
    assert shapes() == [(1, 50, 60, 3)]
    (same,) = network_inputs(image, base)
    np.testing.assert_array_equal(same[0], image)
    resize = msgspec.structs.replace(base.preprocess, resize=Resize(mode="keep_ratio", scale=(30, 25)))
    assert shapes(preprocess=resize) == [(1, 25, 30, 3)]
    slide = Inference(mode="slide", crop=(40, 40), stride=(20, 20))
    assert shapes(inference=slide) == [(1, 40, 40, 3)] * 4
    static = msgspec.structs.replace(base.input, shape=(3, 16, 24, 3))
    assert shapes(input=static) == [(3, 16, 24, 3)]
    narrow = msgspec.structs.replace(base.input, shape=(Bounds(min=2, opt=2, max=4), Bounds(min=8, opt=8, max=32), 70, 3))
    assert shapes(input=narrow) == [(2, 32, 70, 3)]


def test_ranges_are_those_of_the_model(onnx_artifact, images_folder, eager, tmp_path):
    """The range of the logits over two pictures is that of the eager model's logits."""
    paths = sorted(images_folder.iterdir())[:2]
    ranges = measure_ranges(onnx_artifact.model_path, paths, onnx_artifact.manifest, tmp_path)
    logits = [
        eager.run(batch, logits=True).logits
        for path in paths
        for batch in network_inputs(read_image(path), onnx_artifact.manifest)
    ]
    low, high = (value.item() for value in ranges["logits"].range_value)
    np.testing.assert_allclose((low, high), (min(one.min() for one in logits), max(one.max() for one in logits)), atol=1e-3)
