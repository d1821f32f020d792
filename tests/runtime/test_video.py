"""Videos in and out, against OpenCV's own reading of them."""

from __future__ import annotations

import shutil

import cv2
import numpy as np
import pytest

from segdeploy.base.errors import InputError
from segdeploy.base.files import write_file
from segdeploy.images.decode import read_image
from segdeploy.runtime.files import Drawing, Job, predict_files
from segdeploy.runtime.predictor import predict_labels
from segdeploy.runtime.video import predict_video

RATE, FRAMES, SIZE = 12.0, 7, (90, 123)  # of an odd width


@pytest.fixture(scope="module")
def movie(tmp_path_factory, images_folder):
    """A picture that moves, as MJPEG: each of its frames can be read on its own."""
    path = tmp_path_factory.mktemp("video") / "move.avi"
    picture = cv2.resize(cv2.imread(str(images_folder / "3.png")), (SIZE[1] + 1, SIZE[0]))
    video = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), RATE, (SIZE[1] + 1, SIZE[0]))
    for index in range(FRAMES):
        video.write(np.roll(picture, 9 * index, axis=1))
    video.release()
    return path


def frames(path):
    capture, found = cv2.VideoCapture(str(path)), []
    while True:
        there, frame = capture.read()
        if not there:
            return capture.get(cv2.CAP_PROP_FPS), found
        found.append(frame[..., ::-1])


@pytest.fixture(scope="module")
def session(onnx_artifact):
    from segdeploy.runtime import open_session

    with open_session(onnx_artifact, "cpu") as opened:
        yield opened


def test_a_video(session, movie, tmp_path):
    """As many frames, at the same rate, each coloured by its own labels; the legend is the same on all of them."""
    labels = {}
    result = predict_video(session, movie, tmp_path / "out.mp4", batch=3, seen=labels.__setitem__)
    rate, shown = frames(tmp_path / "out.mp4")
    _, original = frames(movie)
    assert (rate, len(shown), result.frames, result.promised) == (RATE, FRAMES, FRAMES, FRAMES)
    for index, frame in enumerate(original):
        assert (labels[index] != predict_labels(session, np.ascontiguousarray(frame))).sum() <= 2
    assert list(labels) == list(range(FRAMES))
    height = original[0].shape[0]
    assert shown[0].shape[0] > height
    legends = [frame[height + 2 :].astype(int) for frame in shown]
    assert max(np.abs(legend - legends[0]).mean() for legend in legends) < 3  # the codec's noise
    assert [path.name for path in tmp_path.iterdir()] == ["out.mp4"]


def test_masks_of_a_video(session, movie, tmp_path):
    """Asked for, the labels of each frame are PNGs in a folder; without overlays no video is written."""
    from PIL import Image

    outcome = predict_files(session, [Job(movie, tmp_path / "move")], Drawing(masks=True, overlays=False), batch=2)
    assert not outcome.problems
    assert outcome.done[0].frames == FRAMES
    assert sorted(path.name for path in tmp_path.iterdir()) == ["move_masks"]
    masks = sorted((tmp_path / "move_masks").glob("[!.]*"))
    assert [path.name for path in masks] == [f"{index:06d}.png" for index in range(FRAMES)]
    with Image.open(masks[0]) as mask:
        assert mask.size == (SIZE[1] + 1, SIZE[0])


def test_a_folder_of_the_users_in_the_masks_place(session, movie, tmp_path):
    """It is a problem of that video, in one line, and stays; masks of an earlier run are replaced."""
    drawing = Drawing(masks=True, overlays=False)
    (tmp_path / "move_masks").mkdir()
    (tmp_path / "move_masks" / "mine").write_text("mine")
    outcome = predict_files(session, [Job(movie, tmp_path / "move")], drawing)
    assert ["would be overwritten" in str(one) for one in outcome.problems] == [True]
    assert [path.name for path in (tmp_path / "move_masks").iterdir()] == ["mine"]
    for _ in range(2):
        assert not predict_files(session, [Job(movie, tmp_path / "other")], drawing).problems


def test_a_cut_video(session, movie, tmp_path):
    """What can be read is done and kept, and the rest is one line."""
    cut = tmp_path / "cut.avi"
    data = movie.read_bytes()
    cut.write_bytes(data[: len(data) // 2])
    outcome = predict_files(session, [Job(cut, tmp_path / "cut")], Drawing())
    assert 0 < outcome.done[0].frames < FRAMES
    assert len(frames(tmp_path / "cut_overlay.mp4")[1]) == outcome.done[0].frames
    (problem,) = outcome.problems
    assert f"got {outcome.done[0].frames} that can be read" in str(problem)


def test_interrupted(session, movie, tmp_path):
    """After Ctrl-C in the middle there is no video, and no rest of one."""

    def interrupt(number, _labels):
        if number == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        predict_video(session, movie, tmp_path / "out.mp4", seen=interrupt)
    assert not list(tmp_path.iterdir())


def test_killed(session, movie, tmp_path):
    """What a run leaves that is killed in the middle, the next one to write there removes."""
    left = tmp_path / "left"
    left.mkdir()

    def keep(number, _labels):
        if number == 3:
            for path in (tmp_path / "out").iterdir():  # as it lies there, and nobody holds it
                shutil.copy(path, left)

    predict_video(session, movie, tmp_path / "out" / "out.mp4", seen=keep)
    assert len(list(left.iterdir())) == 1
    write_file(left / "next", "x")
    assert [path.name for path in left.iterdir()] == ["next"]


@pytest.mark.parametrize("content", [b"", b"not a video" * 100])
def test_no_video(session, tmp_path, content):
    """Something else with a video's name is one line."""
    (tmp_path / "bad.mp4").write_bytes(content)
    with pytest.raises(InputError, match=r"bad\.mp4"):
        predict_video(session, tmp_path / "bad.mp4", tmp_path / "out.mp4")
    assert not (tmp_path / "out.mp4").exists()


def test_one_bad_file_does_not_cost_the_others(session, movie, images_folder, tmp_path):
    """A picture, a broken picture, a broken video, a good video: two results, two problems."""
    (tmp_path / "bad.png").write_bytes(b"x")
    (tmp_path / "bad.mp4").write_bytes(b"x")
    sources = [tmp_path / "bad.png", images_folder / "0.png", tmp_path / "bad.mp4", movie]
    jobs = [Job(source, tmp_path / "out" / source.stem) for source in sources]
    outcome = predict_files(session, jobs, Drawing())
    assert [one.source for one in outcome.done] == [str(images_folder / "0.png"), str(movie)]
    assert len(outcome.problems) == 2
    assert read_image(tmp_path / "out" / "0_overlay.png").size
