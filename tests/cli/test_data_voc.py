"""``segdeploy data voc``."""

from __future__ import annotations

import tarfile
import threading
from functools import partial
from http.server import HTTPServer, SimpleHTTPRequestHandler

import pytest

from segdeploy.training import voc


@pytest.fixture
def archives(voc_sbd, tmp_path):
    """A small VOC and SBD as archives."""
    voc_sbd(tmp_path / "source")
    for name, folder, mode in (
        ("VOCtrainval_11-May-2012.tar", "VOCdevkit", "w"),
        ("benchmark.tgz", "benchmark_RELEASE", "w:gz"),
    ):
        with tarfile.open(tmp_path / name, mode) as tar:
            tar.add(tmp_path / "source" / folder, folder)
    return tmp_path / "VOCtrainval_11-May-2012.tar", tmp_path / "benchmark.tgz"


def test_from_archives(main, archives, tmp_path):
    """The numbers on stdout; that it is a subset, and what comes next, beside them."""
    ended = main("data", "voc", "--sbd", "--subset", "--archive", archives[0], "--archive", archives[1])
    assert ended.status == 0, ended
    assert ended.out == "data: train 3, val 2, trainaug 7, aug 4\n"
    assert "a subset: the whole has train 1,464, val 1,449, trainaug 10,582" in ended.err
    assert "next: segdeploy train upernet_r50_voc12aug_512x512_200e --data-root data\n" in ended.err
    assert (tmp_path / "data" / "VOCdevkit" / "VOC2012" / "SegmentationClassAug" / "2008_000009.png").is_file()


def test_again(main, archives):
    """A second run says that there was nothing to do."""
    arguments = ("data", "voc", "--root", "d", "--sbd", "--subset", "--archive", archives[0], "--archive", archives[1])
    first = main(*arguments)
    ended = main(*arguments)
    assert ended.status == 0
    assert ended.out == first.out
    assert "nothing to do" in ended.err
    assert "nothing to do" not in first.err


def test_voc_alone(main, archives):
    """Without --sbd the config of VOC alone is named."""
    ended = main("data", "voc", "--subset", "--archive", archives[0])
    assert ended.status == 0
    assert ended.out == "data: train 3, val 2\n"
    assert "segdeploy train upernet_r50_voc12_512x512_200e " in ended.err


def test_image_of_sbd_is_said(main, voc_sbd, tmp_path):
    """What was put into VOC's folder is no secret."""
    folder, _ = voc_sbd(tmp_path / "data")
    (folder / "JPEGImages" / "2008_000004.jpg").unlink()
    assert "1 images taken from SBD" in main("data", "voc", "--sbd", "--subset").err


def test_fetched(main, archives, tmp_path, monkeypatch):
    """Over HTTP into the root, by the sums of what is published."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *arguments):
            pass

    from dataclasses import replace
    from hashlib import md5

    for name, path in zip(("VOC_ARCHIVE", "SBD_ARCHIVE"), archives, strict=True):
        monkeypatch.setattr(voc, name, replace(getattr(voc, name), md5=md5(path.read_bytes()).hexdigest()))
    with HTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(tmp_path))) as server:
        monkeypatch.setattr(voc, "_address", lambda archive: f"http://127.0.0.1:{server.server_port}/{archive.name}")
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            ended = main("data", "voc", "--sbd")
        finally:
            server.shutdown()
            thread.join()
    assert ended.status == 1  # a data set of other numbers than the published
    assert "expected the numbers of the published data set" in ended.err
    assert (tmp_path / "data" / "benchmark.tgz").read_bytes() == archives[1].read_bytes()
    assert main("data", "voc", "--sbd", "--subset").out == "data: train 3, val 2, trainaug 7, aug 4\n"


def test_wrong_md5(main, one_line, archives):
    """Not the published archive."""
    one_line(main("data", "voc", "--archive", archives[0]), "6cd6e144f989b92b3379bac3b3de84fd", archives[0], "--subset")


def test_truncated(main, one_line, archives, tmp_path):
    """A cut archive."""
    archives[1].write_bytes(archives[1].read_bytes()[:-1000])
    ended = main("data", "voc", "--sbd", "--subset", "--archive", archives[0], "--archive", archives[1])
    one_line(ended, "a complete tar archive", archives[1])
    assert not (tmp_path / "data" / "benchmark_RELEASE" / "dataset").exists()


def test_bad_mat(main, one_line, voc_sbd, tmp_path):
    """One .mat of another structure."""
    _, sbd = voc_sbd(tmp_path / "data")
    (sbd / "cls" / "2008_000004.mat").write_bytes(b"?" * 300)
    one_line(main("data", "voc", "--sbd", "--subset"), "got 1 without: 2008_000004 (")


def test_missing_archive(main, one_line):
    """A path that leads nowhere."""
    one_line(main("data", "voc", "--archive", "nowhere.tar"), "nowhere.tar", "no such file")


def test_no_workers(main):
    """Wrong usage."""
    assert main("data", "voc", "--workers", "0").status == 2
