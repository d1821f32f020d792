"""What comes from elsewhere, tried through every command that opens it."""

import hashlib
import json
import shutil

import pytest

COMMANDS = {
    "export": ["export", "CHECKPOINT", "--to", "onnx", "--out", "out"],
    "eval": ["eval", "CHECKPOINT", "--data", "DATA"],
    "verify": ["verify", "ARTIFACT"],
    "predict": ["predict", "CHECKPOINT", "IMAGE", "--out", "out"],
    "publish": ["publish", "CHECKPOINT", "--out", "out"],
}


@pytest.mark.parametrize("command", COMMANDS)
def test_no_command_runs_a_stored_config(command, main, checkpoint_path, config_values, onnx_artifact, tmp_path, labelled_root):
    """A backbone that is a shell command: one line that names the place, exit 1, and the command has not run."""
    import torch
    from mmengine.config import Config

    content = torch.load(checkpoint_path, weights_only=True)
    backbone = {"type": "os.system", "command": f"touch {tmp_path / 'created'}"}
    values = {**config_values, "model": {**config_values["model"], "backbone": backbone}}
    content["meta"]["cfg"] = Config(values).pretty_text
    evil = tmp_path / "evil.pth"
    torch.save(content, evil)
    artifact = shutil.copytree(onnx_artifact.folder, tmp_path / "artifact")
    manifest = json.loads((artifact / "manifest.json").read_text())
    manifest["lineage"] |= {"checkpoint": str(evil), "checkpoint_sha256": hashlib.sha256(evil.read_bytes()).hexdigest()}
    (artifact / "manifest.json").write_text(json.dumps(manifest))
    picture = labelled_root / "img_dir" / "val" / "0.png"
    given = {"CHECKPOINT": evil, "DATA": labelled_root, "IMAGE": picture, "ARTIFACT": artifact}
    ended = main(*(given.get(part, part) for part in COMMANDS[command]))
    assert not (tmp_path / "created").exists()
    assert ended.status == 1
    assert "at model.backbone.type in the config of" in ended.err + ended.out
    assert "'os.system'" in ended.err + ended.out
    assert "Traceback" not in ended.err
