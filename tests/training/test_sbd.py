"""SBD's MATLAB files, held against scipy's plain reading of the same file and against arrays that were written."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image
from scipy.io import loadmat, savemat
from scipy.sparse import csc_array

from segdeploy.base.errors import InputError
from segdeploy.training.sbd import read_sbd_mask

MASK = np.arange(20, dtype=np.uint8).reshape(4, 5)


def write(path, value=None, **changes):
    """A file in SBD's structure, with some of it replaced."""
    boundaries = np.empty((1, 1), object)
    boundaries[0, 0] = csc_array(MASK == 1)
    content = {"Boundaries": boundaries, "Segmentation": MASK, "CategoriesPresent": np.array([[1.0]])} | changes
    savemat(path, value or {"GTcls": {name: part for name, part in content.items() if part is not None}}, do_compression=True)
    return path


def test_rows_and_columns(tmp_path):
    """MATLAB stores columns first; the label map comes out [H, W] as it was."""
    got = read_sbd_mask(write(tmp_path / "a.mat"))
    assert got.dtype == np.uint8
    np.testing.assert_array_equal(got, MASK)


def test_of_the_tree(voc_sbd, tmp_path):
    """The same as the expression that SBD's users write."""
    _, sbd = voc_sbd(tmp_path)
    files = sorted((sbd / "cls").iterdir())
    assert len(files) == 6
    for path in files:
        np.testing.assert_array_equal(read_sbd_mask(path), loadmat(path)["GTcls"][0]["Segmentation"][0])


@pytest.mark.shared
def test_real_masks(shared):
    """Real label maps in SBD's structure: as scipy reads them, and of their photographs' sizes."""
    folder = shared / "data" / "voc-mini" / "benchmark_RELEASE" / "dataset"
    files = sorted((folder / "cls").glob("*.mat"))
    assert len(files) == 10
    for path in files:
        got = read_sbd_mask(path)
        np.testing.assert_array_equal(got, loadmat(path)["GTcls"][0]["Segmentation"][0])
        with Image.open(folder / "img" / f"{path.stem}.jpg") as image:
            assert image.size == got.shape[::-1]


def test_void_is_let_through(tmp_path):
    """255 is void everywhere in VOC."""
    assert read_sbd_mask(write(tmp_path / "a.mat", Segmentation=np.full((2, 3), 255, np.uint8))).tolist() == [[255] * 3] * 2


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"value": {"GTinst": {"Segmentation": MASK}}}, "no GTcls"),
        ({"value": {"GTcls": MASK}}, "no GTcls with one Segmentation"),
        ({"Segmentation": None}, "no GTcls with one Segmentation"),
        ({"Segmentation": MASK.astype(float)}, r"float64 \[4, 5\]"),
        ({"Segmentation": np.zeros((4, 5, 3), np.uint8)}, r"uint8 \[4, 5, 3\]"),
        ({"Segmentation": np.zeros((0, 5), np.uint8)}, r"uint8 \[0, 5\]"),
        ({"Segmentation": MASK + np.uint8(2)}, "label 21"),
    ],
)
def test_another_structure(tmp_path, changes, word):
    """What is no label map of SBD is refused in words."""
    with pytest.raises(InputError, match=word):
        read_sbd_mask(write(tmp_path / "a.mat", **changes))


@pytest.mark.parametrize("cut", [0, 60, 130, 200, -30])
def test_damaged(tmp_path, cut):
    """A file that ends early, wherever, is one line."""
    path = write(tmp_path / "a.mat")
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(InputError, match="expected SBD's GTcls.Segmentation"):
        read_sbd_mask(path)


def test_flipped_bytes(tmp_path):
    """No damage within a file gets out as another kind of error."""
    path = write(tmp_path / "a.mat")
    whole = bytearray(path.read_bytes())
    for at in range(124, len(whole), 7):
        damaged = whole.copy()
        damaged[at] ^= 0x5A
        path.write_bytes(damaged)
        try:
            mask = read_sbd_mask(path)
        except InputError:
            continue
        assert mask.ndim == 2


def test_missing(tmp_path):
    """A missing file is one line."""
    with pytest.raises(InputError, match="no such file or directory"):
        read_sbd_mask(tmp_path / "a.mat")
