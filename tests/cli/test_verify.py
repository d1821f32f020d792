import json
import re
import shutil
from pathlib import Path
from xml.etree import ElementTree as ET

import cv2
import numpy as np
import pytest

from support.serving import behind_http


@pytest.fixture
def exports(onnx_artifact, torchscript_artifact):
    """Puts artifacts under exports/ of the current folder."""

    def put(*artifacts):
        for artifact in artifacts:
            shutil.copytree(artifact.folder, Path("exports") / "tiny" / artifact.manifest.label)

    return put


def test_all_under_exports(main, exports, onnx_artifact, torchscript_artifact):
    """Without arguments everything under exports/ is verified; exit 0 when all passed; --json holds the figures."""
    exports(onnx_artifact, torchscript_artifact)
    ended = main("verify", "--json", "parity.json")
    assert ended.status == 0, ended.err
    figures = json.loads(Path("parity.json").read_text())
    assert {name: one["verdict"] for name, one in figures.items()} == {
        "exports/tiny/onnx-fp32": "passed",
        "exports/tiny/torchscript-fp32": "passed",
    }
    assert len(re.findall(r"passed on all 6 labelled images of \w+, val, cpu", ended.out)) == 2
    assert len(figures["exports/tiny/onnx-fp32"]["shapes"]) >= 7
    assert figures["exports/tiny/onnx-fp32"]["task"]["verdict"] == "passed"
    assert "verify" in figures["exports/tiny/onnx-fp32"]["command"]


def test_one_that_is_broken_is_a_row(main, one_line, onnx_artifact, tmp_path):
    """Of three of one name, each is in every report by its folder; the broken ones say why, and the exit status too."""
    for model in "abc":
        shutil.copytree(onnx_artifact.folder, tmp_path / "exports" / model / "onnx-fp32")
    model = tmp_path / "exports/a/onnx-fp32/model.onnx"
    model.write_bytes(model.read_bytes() + b"x")
    (tmp_path / "exports/c/onnx-fp32/manifest.json").write_text("{")
    ended = main("verify", "--limit", "3", "--json", "p.json", "--junit", "p.xml", "--markdown", "p.md")
    one_line(ended, "exports/a/onnx-fp32 skipped, exports/c/onnx-fp32 skipped", status=4)
    figures = json.loads(Path("p.json").read_text())
    folders = [f"exports/{model}/onnx-fp32" for model in "abc"]
    assert {name: (one["verdict"], one["broken"]) for name, one in figures.items()} == dict(
        zip(folders, [("skipped", True), ("passed", False), ("skipped", True)], strict=True)
    )
    assert "changed or damaged" in figures[folders[0]]["reason"]
    suites = ET.parse("p.xml").getroot()
    assert [suite.get("name") for suite in suites] == folders
    assert [suite.get("errors") != "0" for suite in suites] == [True, False, True]
    assert [bool(suite.findall("testcase/error")) for suite in suites] == [True, False, True]
    assert all(f"## {folder}:" in Path("p.md").read_text() for folder in folders)
    assert "exports/c/onnx-fp32: not verified: " in ended.out


def test_all_that_are_broken(main, one_line, onnx_artifact, tmp_path):
    """Where nothing can be judged it is an error, and the reports are written all the same."""
    shutil.copytree(onnx_artifact.folder, tmp_path / "exports" / "a")
    (tmp_path / "exports/a/model.onnx").write_bytes(b"x")
    one_line(main("verify", "--junit", "p.xml"), "exports/a/model.onnx")
    assert ET.parse("p.xml").getroot()[0].get("errors") != "0"


def test_several_references_in_one_folder(main, one_line, exports, onnx_artifact, torchscript_artifact):
    """Each has its own, found again by its artifact; a folder of the user's in its place is refused and stays."""
    exports(onnx_artifact, torchscript_artifact)
    assert main("verify", "--limit", "3", "--save-reference", "stored").status in (0, 4)
    assert {path.parent.name for path in Path("stored").glob("tiny/*/reference.json")} == {"onnx-fp32", "torchscript-fp32"}
    assert main("verify", "--reference", "stored", "--checkpoint", "gone.pth").status in (0, 4)
    Path("mine").mkdir()
    Path("mine/thesis").write_text("x")
    one_line(main("verify", "exports/tiny/onnx-fp32", "--save-reference", "mine"), "would be overwritten")
    assert [path.name for path in Path("mine").iterdir()] == ["thesis"]


def test_a_verdict_of_what_was_replaced_meanwhile(main, monkeypatch, exports, onnx_artifact):
    """It is shown, with the reason why the new artifact's manifest does not hold it."""
    from segdeploy.parity import verify as module

    exports(onnx_artifact)
    manifest = Path("exports/tiny/onnx-fp32/manifest.json")
    run = module.run_all

    def slow(*arguments, **more):
        run(*arguments, **more)
        values = json.loads(manifest.read_text())
        values["files"][0]["sha256"] = "0" * 64
        manifest.write_text(json.dumps(values))

    monkeypatch.setattr(module, "run_all", slow)
    ended = main("verify", manifest.parent)
    assert ended.status == 0, ended
    assert "not recorded in its manifest: " in ended.out
    assert "meanwhile" in ended.out
    assert json.loads(manifest.read_text())["parity"] == []


def test_options(main, exports, torchscript_artifact, images_folder, checkpoint_path):
    """--shape, --batch, --limit, --images and --checkpoint do what they say."""
    exports(torchscript_artifact)
    arguments = ("--shape", "40x50", "--shape", "50x40", "--batch", "2", "--limit", "3", "--images", images_folder)
    ended = main("verify", "exports/tiny", *arguments, "--checkpoint", checkpoint_path, "--json", "parity.json")
    assert ended.status == 0, ended.err
    parity = json.loads(Path("parity.json").read_text())["exports/tiny/torchscript-fp32"]
    assert [shape["shape"] for shape in parity["shapes"]] == [None, [2, 40, 50], [2, 50, 40]]
    assert parity["inputs"] == "3 images of val"


def test_the_limit_of_pixels(main, one_line, exports, onnx_artifact, images_folder, server, tmp_path):
    """--max-pixels holds for every picture, of a server and a stored reference too, and can be raised; this has 7,500."""
    exports(onnx_artifact)
    (tmp_path / "one").mkdir()
    shutil.copy(images_folder / "0.png", tmp_path / "one")
    words = ("verify", "exports/tiny/onnx-fp32", "--images", tmp_path / "one", "--max-pixels")
    for more in ((), ("--url", server)):
        one_line(main(*words, "7499", *more), "at most 0.007499 megapixels in '", "got 100x75", "--max-pixels")
    ended = main(*words, "7500", "--shape", "40x50", "--save-reference", "reference", "--json", "p.json")
    assert json.loads(Path("p.json").read_text())["exports/tiny/onnx-fp32"]["labels"]["verdict"] == "passed", ended.err
    stored = ("verify", "exports/tiny/onnx-fp32", "--reference", "reference", "--max-pixels")
    one_line(main(*stored, "7499"), "at most 0.007499 megapixels in '", "got 100x75")


@pytest.mark.parametrize("split", ["img_dir", "ann_dir"])
def test_the_limit_of_pixels_of_a_data_set(main, one_line, exports, onnx_artifact, labelled_root, tmp_path, split):
    """Of pictures and of label maps, one of which is larger."""
    exports(onnx_artifact)
    root = shutil.copytree(labelled_root, tmp_path / "labelled")
    first = min((root / split / "val").iterdir())
    cv2.imwrite(str(first), np.zeros((100, 500), np.uint8))
    ended = main("verify", "exports/tiny/onnx-fp32", "--data", root, "--max-pixels", "49999", "--shape", "40x50")
    one_line(ended, "at most 0.049999 megapixels in '", "got 500x100")


def test_a_failure_is_exit_3(main, one_line, exports, onnx_artifact, torchscript_artifact):
    """One bad artifact among good ones: exit 3, and the line names the bad one only."""
    import onnx
    from onnx import numpy_helper

    from segdeploy.artifact.folder import write_artifact

    exports(torchscript_artifact)

    def write(folder):
        model = onnx.load(onnx_artifact.model_path)
        mean = next(one for one in model.graph.initializer if one.name == "mean")
        mean.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(mean)[:, ::-1].copy(), "mean"))
        onnx.save(model, folder / "model.onnx")
        return onnx_artifact.manifest

    write_artifact(Path("exports/tiny/onnx-fp32"), write)
    ended = main("verify")
    one_line(ended, "got exports/tiny/onnx-fp32 failed;", status=3)
    assert "tiny/torchscript-fp32: passed" in ended.out


def test_what_cannot_run_is_exit_4(main, one_line, exports, torchscript_artifact, tensorrt_artifact, no_gpu):
    """An engine that nothing here can run: exit 4, shown as skipped with the reason, beside an artifact that passed."""
    exports(torchscript_artifact, tensorrt_artifact)
    ended = main("verify")
    one_line(ended, "exports/tiny/tensorrt-fp32 skipped", status=4)
    assert re.search(r"logits and masks +│ skipped +│ expected an NVIDIA GPU", ended.out)
    assert "tiny/torchscript-fp32: passed" in ended.out


def test_bad_inputs(main, one_line, exports, torchscript_artifact, tmp_path):
    """No artifact, a damaged one, another checkpoint, no pictures, a bad size: one line each, exit 1."""
    one_line(main("verify"), "segdeploy export")
    exports(torchscript_artifact)
    one_line(main("verify", "none"), "no such folder")
    one_line(main("verify", "--images", "none"), "no such folder")
    one_line(main("verify", "--shape", "5"), "HxW for --shape")
    one_line(main("verify", "--shape", "5x5"), "H within")
    Path("other.pth").write_bytes(b"x")
    one_line(main("verify", "--checkpoint", "other.pth"), "another one at 'other.pth'")
    one_line(main("verify", "--images", ".", "--data", "."), "--data or --images")
    one_line(main("verify", "--reference", "."), "reference.json")
    one_line(main("verify", "--reference", ".", "--shape", "64x96"), "--reference alone")
    one_line(main("verify", "--agreement", "2"), "up to 1, for mask_agreement")
    one_line(main("verify", "--url", "ftp://x"), "a model's URL")
    one_line(main("verify", "--url", "http://127.0.0.1:9/predictions/x"), "a server at http://127.0.0.1:9")
    model = Path("exports/tiny/torchscript-fp32/model.pt")
    model.write_bytes(model.read_bytes()[:-1] + b"x")
    one_line(main("verify"), "model.pt", "changed or damaged")


def test_reports(main, exports, onnx_artifact, images_folder):
    """--junit and --markdown hold every check; pictures of the worst image only where something failed."""
    from xml.etree import ElementTree as ET

    exports(onnx_artifact)
    ended = main("verify", "--images", images_folder, "--limit", "2", "--junit", "out/j.xml", "--markdown", "out/p.md")
    assert ended.status == 0, ended.err
    cases = list(ET.parse("out/j.xml").getroot().iter("testcase"))
    assert [case.get("name") for case in cases if case.find("skipped") is not None] == ["mIoU"]
    assert Path("out/p.md").read_text().count("| passed |") == len(cases) - 1 > 9
    assert not Path("parity").exists()


def test_a_worst_image(main, exports, onnx_artifact, images_folder):
    """A tolerance that nothing meets: exit 3, where it begins, and the picture under --pictures."""
    exports(onnx_artifact)
    ended = main("verify", "--images", images_folder, "--limit", "2", "--logits-tolerance", "1e-12", "--pictures", "drawn")
    assert ended.status == 3
    assert "where: " in ended.out
    assert Path("drawn/tiny/onnx-fp32/worst.png").is_file()


def test_across_machines(main, exports, onnx_artifact, torchscript_artifact):
    """--save-reference stores while it verifies; --reference gives the same verdict without the checkpoint."""
    exports(onnx_artifact, torchscript_artifact)
    assert main("verify", "exports/tiny/onnx-fp32", "--limit", "3", "--save-reference", "stored").status == 0
    ended = main("verify", "exports/tiny/torchscript-fp32", "--reference", "stored", "--checkpoint", "gone.pth")
    assert ended.status == 0, ended.err
    assert "against stored outputs of eager" in ended.out
    assert "3 of 6 labelled images" in ended.out


@pytest.fixture
def server(onnx_artifact):
    """The artifact behind HTTP, without TorchServe: its URL."""
    from segdeploy.runtime import open_session
    from segdeploy.serve.predictor import Predictor

    with open_session(onnx_artifact, "cpu", 1) as session, behind_http(Predictor(session)) as url:
        yield url


def test_a_server(main, exports, one_line, onnx_artifact, torchscript_artifact, server):
    """--url posts the pictures and holds the answers to the checkpoint; which artifact it runs must be said."""
    exports(onnx_artifact, torchscript_artifact)
    one_line(main("verify", "--url", server), "one ARTIFACT with --url")
    ended = main("verify", "exports/tiny/onnx-fp32", "--url", server, "--json", "p.json")
    assert ended.status == 0, ended.err
    parity = json.loads(Path("p.json").read_text())[server]
    assert parity["verdict"] == parity["labels"]["verdict"] == parity["task"]["verdict"] == "passed"
    assert json.loads(Path("exports/tiny/onnx-fp32/manifest.json").read_text())["parity"] == []
