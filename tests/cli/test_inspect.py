import json

import pytest

from segdeploy.artifact.manifest import decode_manifest
from segdeploy.parity.verify import verify


@pytest.mark.parametrize("fmt", ["onnx", "torchscript", "tensorrt"])
def test_what_it_shows(request, main, fmt, checkpoint_path):
    """What the artifact is, takes, gives, came from, and that nothing was proven of it yet."""
    artifact = request.getfixturevalue(f"{fmt}_artifact")
    ended = main("inspect", artifact.folder)
    assert ended.status == 0, ended.err
    facts = dict(line.split("  ", 1) for line in ended.out.splitlines())
    facts = {name: value.strip() for name, value in facts.items()}
    assert facts["name"] == f"tiny/{fmt}-fp32"
    assert facts["input"].startswith("image uint8 [N 1..")
    assert facts["outputs"] == "mask uint8 [N, H, W], logits float32 [N, K, h, w]"
    assert facts["target"] == ("sm89" if fmt == "tensorrt" else "portable")
    assert facts["classes"] == "5: background, red, green, blue, white"
    assert str(checkpoint_path) in facts["checkpoint"]
    assert artifact.manifest.lineage.checkpoint_sha256[:12] in facts["checkpoint"]
    assert facts["parity"] == "never verified"
    assert ("NATIVE CODE" in facts["opening it"]) == (fmt == "tensorrt")
    assert ("from who you trust" in facts["opening it"]) == (fmt != "onnx")
    assert ("profile 0: 1x32x32:1x64x96:4x256x256" in ended.out) == (fmt == "tensorrt")
    assert ("tensorrt_rtx --onnx=model.onnx" in ended.out) == (fmt == "tensorrt")


def test_a_verdict_is_shown(main, copied, torchscript_artifact):
    """After a verification: the verdict, on what, and the worst figure."""
    artifact = copied(torchscript_artifact)
    parity = verify(artifact, shapes=[(1, 64, 96), (2, 40, 50)])
    out = main("inspect", artifact.folder).out
    assert "passed" in out
    for check in ("own sizes: passed", "1 x 64x96: passed", "2 x 40x50: passed", "mIoU: passed", "determinism: passed"):
        assert check in out
    assert f"{max(shape.logits.max_abs for shape in parity.shapes):.1e}" in out


def test_json_is_the_manifest(main, onnx_artifact):
    """--json is the manifest itself, to the byte."""
    ended = main("inspect", onnx_artifact.folder, "--json")
    assert ended.out.encode() == (onnx_artifact.folder / "manifest.json").read_bytes()
    assert decode_manifest(ended.out.encode(), "x") == onnx_artifact.manifest


def test_bad_inputs(main, one_line, copied, onnx_artifact, tmp_path):
    """No folder, no manifest, a damaged one, an altered model: one line each, that names the file or the field."""
    one_line(main("inspect", "none"), "no such folder")
    one_line(main("inspect", tmp_path), "no such file")
    artifact = copied(onnx_artifact)
    manifest = artifact.folder / "manifest.json"
    values = json.loads(manifest.read_text())
    manifest.write_text(json.dumps({**values, "surprise": 1}))
    one_line(main("inspect", artifact.folder), "surprise")
    manifest.write_text(json.dumps({**values, "schema": 3}))
    one_line(main("inspect", artifact.folder), "schema 3")
    manifest.write_text("{")
    one_line(main("inspect", artifact.folder), "manifest.json")
    manifest.write_text(json.dumps(values))
    data = artifact.model_path.read_bytes()
    artifact.model_path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))  # of the same size: only the hash tells
    one_line(main("inspect", artifact.folder), "model.onnx")


def test_every_format_says_what_opening_it_means():
    """A format that is added has to say it too."""
    from typing import get_args

    from segdeploy.artifact.manifest import Format
    from segdeploy.cli.inspect import _OPENING

    assert set(_OPENING) == set(get_args(Format))
    assert "NATIVE CODE" in _OPENING["pt2"]
