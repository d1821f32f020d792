"""``segdeploy data check``."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image


@pytest.fixture
def camera(tmp_path):
    """Two images to train on and one to validate on, without class names."""
    for split, name in (("train", "a"), ("train", "b"), ("val", "c")):
        for folder, picture in (("img_dir", (9, 12, 3)), ("ann_dir", (9, 12))):
            path = tmp_path / "camera" / folder / split / f"{name}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            random = np.random.default_rng(ord(name))
            Image.fromarray(random.integers(0, 256 if len(picture) == 3 else 2, picture, np.uint8)).save(path)
    return tmp_path / "camera"


def test_clean(main, camera):
    """Exit 0, the table, and that the number of classes is a guess."""
    ended = main("data", "check", camera)
    assert ended.status == 0, ended
    assert ended.out.startswith("train 2 images, val 1 images\n")
    assert ended.out.endswith("no faults\n")
    assert "label 1" in ended.out
    assert "label 2" not in ended.out
    assert "guessed" in ended.err
    assert "guessed" not in main("data", "check", camera, "--classes", "2").err


def test_table(main, camera):
    """A class is a share of what is labelled, void of all."""
    label = np.zeros((9, 12), np.uint8)
    label[0, :6], label[1] = 1, 255
    Image.fromarray(label).save(camera / "ann_dir" / "val" / "c.png")
    rows = [line.split("│") for line in main("data", "check", camera, "--classes", "3").out.splitlines() if "│" in line]
    shown = {row[1].strip(): [cell.strip() for cell in row[4:6]] for row in rows}
    assert shown["label 0"] == [f"{100 * 90 / 96:.3f}", "1"]
    assert shown["label 1"] == [f"{100 * 6 / 96:.3f}", "1"]
    assert shown["label 2"] == ["-", "-"]
    assert shown["void"] == [f"{100 * 12 / 108:.3f}", "1"]


def test_faults(main, one_line, camera, tmp_path):
    """Everything is listed with examples, and is in the JSON; one line of error, exit 1."""
    (camera / "ann_dir" / "train" / "a.png").unlink()
    for index in range(7):
        Image.new("RGB", (12, 9)).save(camera / "img_dir" / "val" / f"x{index}.png")
        Image.new("RGB", (12, 9)).save(camera / "ann_dir" / "val" / f"x{index}.png")
    ended = main("data", "check", camera, "--json", "r.json", "--plot", "p.svg")
    one_line(ended, "1 x label map missing, 7 x label map is a colour picture", camera)
    assert f"fault: label map missing: 1\n    {camera / 'ann_dir' / 'train' / 'a.png'}\n" in ended.out
    assert "fault: label map is a colour picture: 7\n" in ended.out
    assert "x4.png: a colour picture (mode RGB)\n    ... and 2 more\n" in ended.out
    assert "x5.png" not in ended.out
    assert "no faults" not in ended.out
    written = json.loads((tmp_path / "r.json").read_text())
    assert [(one["kind"], one["severity"], one["count"]) for one in written["findings"]] == [
        ("label map missing", "fault", 1),
        ("label map is a colour picture", "fault", 7),
    ]
    assert written["splits"][0]["images"] == 2
    assert (tmp_path / "p.svg").read_text().startswith("<?xml")


def test_note_is_no_fault(main, camera):
    """What is only worth a look does not fail."""
    Image.fromarray(np.full((9, 12), 255, np.uint8)).save(camera / "ann_dir" / "val" / "c.png")
    ended = main("data", "check", camera)
    assert ended.status == 0
    assert "note: nothing but void: 1\n" in ended.out


def test_config_with_another_data_root(main, tmp_path):
    """As `train` takes it: the config names the classes."""
    assert main("data", "synth", "--root", "s", "--train", "4", "--val", "2", "--size", "48x64").status == 0
    ended = main("data", "check", "upernet_r18_synthetic", "--data-root", "s")
    assert ended.status == 0, ended
    assert "circle" in ended.out
    assert "guessed" not in ended.err


def test_without_data(main, one_line):
    """What is missing, and how to name what is there."""
    one_line(main("data", "check", "upernet_r18_synthetic"), "--data-root DIR", "train_dataloader")


def test_other_picture(main, one_line, camera):
    """A format that cannot be drawn is said before the data set is read."""
    ended = main("data", "check", camera, "--plot", "p.jpg")
    one_line(ended, "p.jpg", "--plot")
    assert not ended.out


def test_wrong_usage(main):
    """Numbers that make no sense."""
    assert main("data", "check", ".", "--classes", "256").status == 2
    assert main("data", "check", ".", "--workers", "0").status == 2
