"""``segdeploy predict --url``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from support.serving import behind_http


@pytest.fixture
def server(onnx_artifact):
    """The artifact behind HTTP: its URL."""
    from segdeploy.runtime import open_session
    from segdeploy.serve.predictor import Predictor

    with open_session(onnx_artifact, "cpu", 1) as session, behind_http(Predictor(session)) as url:
        yield url


def files(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()}


def test_a_server_gives_the_files_that_its_artifact_gives_here(main, server, onnx_artifact, images_folder):
    """Masks, overlays, legends and shares: to the byte, whichever way, in the order of the files."""
    assert main("predict", onnx_artifact.folder, images_folder, "--out", "here", "--json", "here.json").status == 0
    ended = main("predict", images_folder, "--url", server, "--out", "there", "--json", "there.json", "--at-once", "3")
    assert ended.status == 0, ended.err
    assert ended.out == "6 of 6 files: there\n"
    assert files("there") == files("here")
    here, there = (json.loads(Path(name).read_text()) for name in ("here.json", "there.json"))
    assert [one["shares"] for one in there] == [one["shares"] for one in here]
    assert [one["source"] for one in there] == [one["source"] for one in here]


@pytest.mark.parametrize("remote", [True, False])
def test_what_fails_is_a_row_and_an_exit_status(main, server, onnx_artifact, images_folder, remote):
    """A file that is no picture, first or not, and one that is missing: named, in rows of their own, and the others written."""
    Path("bad.png").write_bytes(b"not a picture")
    model = ("--url", server) if remote else (onnx_artifact.folder,)
    paths = ("bad.png", images_folder / "0.png", "gone.png", images_folder / "1.png")
    before = () if remote else model
    after = model if remote else ()
    ended = main("predict", *before, *paths, *after, "--out", "out", "--json", "rows.json")
    assert ended.status == 1
    assert ended.out.startswith("2 of 4 files")
    assert ended.err.count("error: ") == 2
    rows = {Path(row["source"]).name: row for row in json.loads(Path("rows.json").read_text())}
    assert {name for name, row in rows.items() if row["error"]} == {"bad.png", "gone.png"}
    for name in ("bad.png", "gone.png"):
        assert f"'{name}'" in rows[name]["error"]
        assert not rows[name]["written"]
    assert sorted(files("out")) == ["0_mask.png", "0_overlay.png", "1_mask.png", "1_overlay.png"]


def test_a_video_is_not_sent(main, server, images_folder):
    """It is a row that says so."""
    Path("film.mp4").write_bytes(b"x")
    ended = main("predict", "film.mp4", images_folder / "0.png", "--url", server, "--out", "out")
    assert ended.status == 1
    assert ended.out.startswith("1 of 2 files")
    assert "a video" in ended.err


def test_bad_usage(main, one_line, server, onnx_artifact, images_folder):
    """A model beside the URL, and a URL where there is no server, are one line each."""
    one_line(main("predict", onnx_artifact.folder, images_folder, "--url", server, "--out", "out"), "with --url")
    one_line(main("predict", images_folder, "--url", server, "--device", "cpu", "--out", "out"), "with --url")
    one_line(main("predict", images_folder, "--url", "file:///x", "--out", "out"), "URL")
    assert not Path("out").exists()
