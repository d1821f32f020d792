"""Pictures of coloured shapes with their label maps, in mmseg's layout and as VOC + SBD are published."""

from __future__ import annotations

import shutil

import cv2
import numpy as np
import pytest

CLASSES = ("background", "red", "green", "blue", "white")
PALETTE = [[0, 0, 0], [200, 0, 0], [0, 200, 0], [0, 0, 200], [230, 230, 230]]
COLOURS = np.array([(90, 90, 90), (200, 40, 40), (40, 190, 50), (50, 60, 210), (235, 235, 235)])
CROP = (64, 96)
# Height x width: landscape, portrait, smaller and larger than the network's input, odd; the last keeps its size.
IMAGE_SIZES = ((75, 100), (120, 80), (49, 41), (131, 197), (77, 77), CROP)


def shapes_image(random, height, width):
    """A picture (RGB) of coloured ellipses and boxes over grey, and its label map with void along every outline."""
    label = np.zeros((height, width), np.uint8)
    void = np.zeros((height, width), np.uint8)
    for _ in range(5):
        colour = int(random.integers(1, len(CLASSES)))
        centre = (int(random.integers(width)), int(random.integers(height)))
        axes = tuple(int(random.integers(side // 8 + 2, side // 3 + 4)) for side in (width, height))
        for canvas, value, thickness in ((label, colour, -1), (void, 0, -1), (void, 1, 1)):
            if colour % 2:
                cv2.ellipse(canvas, (centre, (2 * axes[0], 2 * axes[1]), 0), value, thickness)
            else:
                corner = (centre[0] + axes[0], centre[1] + axes[1])
                cv2.rectangle(canvas, centre, corner, value, thickness)
    noise = random.normal(0, 12, (height, width, 3))
    image = np.clip(COLOURS[label] + noise, 0, 255).astype(np.uint8)
    label[void > 0] = 255
    return image, label


@pytest.fixture(scope="session")
def labelled_root(made_once):
    """Six labelled pictures of different sizes in mmseg's layout."""

    def fill(root):
        random = np.random.default_rng(5)
        for part in ("img_dir", "ann_dir"):
            (root / part / "val").mkdir(parents=True)
        for index, (height, width) in enumerate(IMAGE_SIZES):
            image, label = shapes_image(random, height, width)
            cv2.imwrite(str(root / "img_dir" / "val" / f"{index}.png"), image[..., ::-1])
            cv2.imwrite(str(root / "ann_dir" / "val" / f"{index}.png"), label)

    return made_once("labelled", fill)


@pytest.fixture(scope="session")
def images_folder(labelled_root):
    """The pictures of the labelled set."""
    return labelled_root / "img_dir" / "val"


@pytest.fixture(scope="session")
def voc_sbd():
    """Makes a small VOC + SBD as published, unpacked: 3 to train, 2 to validate, and of SBD one each of these and the rest."""
    from PIL import Image
    from scipy.io import savemat
    from scipy.sparse import csc_array

    def make(root, rest=("2008_000009", "2008_000004", "2008_000006", "2008_000005")):
        voc, sbd = root / "VOCdevkit" / "VOC2012", root / "benchmark_RELEASE" / "dataset"
        lists = voc / "ImageSets" / "Segmentation"
        for folder in (voc / "JPEGImages", voc / "SegmentationClass", lists, sbd / "cls", sbd / "img"):
            folder.mkdir(parents=True)
        train, val = ("2007_000003", "2007_000001", "2007_000002"), ("2007_000008", "2007_000007")
        random = np.random.default_rng(0)
        for index, name in enumerate((*train, *val, *rest)):
            image, label = shapes_image(random, *((40, 56), (57, 41))[index % 2])
            cv2.imwrite(str(voc / "JPEGImages" / f"{name}.jpg"), image)
            if name in train + val:
                picture = Image.fromarray(label)
                picture.putpalette(bytes(range(256)) * 3)
                picture.save(voc / "SegmentationClass" / f"{name}.png")
            if name in (train[0], val[0], *rest):
                label = np.where(label == 255, 20, label).astype(np.uint8)
                boundaries = np.empty((20, 1), object)
                for kind in range(20):
                    boundaries[kind, 0] = csc_array(label == kind + 1)
                content = {"Boundaries": boundaries, "Segmentation": label, "CategoriesPresent": np.array([[1.0], [20.0]])}
                savemat(sbd / "cls" / f"{name}.mat", {"GTcls": content}, do_compression=True)
                shutil.copy(voc / "JPEGImages" / f"{name}.jpg", sbd / "img")
        for path, names in (
            (lists / "train.txt", train),
            (lists / "val.txt", val),
            (sbd / "train.txt", (val[0], *rest[1:])),
            (sbd / "val.txt", (rest[0], train[0])),
        ):
            path.write_text("".join(f"{name}\n" for name in names))
        return voc, sbd

    return make
