"""`segdeploy pack --to triton`."""

from __future__ import annotations

import shlex
from pathlib import Path


def test_a_repository_and_the_lines_to_use_it(main, copied, onnx_artifact, tmp_path):
    """The server is started on loopback, with what Triton lets everyone set locked by keys that differ from run to run."""
    artifact = copied(onnx_artifact)
    ended = main("pack", artifact.folder, "--to", "triton", "--name", "tiny", "--batch-size", "4", "--unverified")
    assert ended.status == 0, ended
    assert (tmp_path / "model_repository" / "tiny" / "1" / "model.py").is_file()
    assert "max_batch_size: 4" in Path("model_repository/tiny/config.pbtxt").read_text()
    assert "packed all the same" in ended.err
    words = shlex.split(ended.out.splitlines()[2])
    told = dict(zip(words[1::2], words[2::2], strict=False))
    assert words[0] == "tritonserver"
    assert told["--model-repository"] == "model_repository"
    assert {told[f"--{kind}-address"] for kind in ("http", "grpc", "metrics")} == {"127.0.0.1"}
    again = main("pack", artifact.folder, "--to", "triton", "--name", "tiny", "--unverified")
    key = told["--http-restricted-api"].split("admin-key=")[1]
    assert len(key) == 32
    assert key not in again.out


def test_bare_is_for_triton(main, copied, onnx_artifact, tmp_path):
    """The network alone is told what goes in; of another server it is wrong usage."""
    artifact = copied(onnx_artifact)
    ended = main("pack", artifact.folder, "--to", "triton", "--bare", "--unverified", "--out", "repo", "--name", "net")
    assert ended.status == 0, ended
    assert "what goes in: RGB as decoded" in ended.out
    assert (tmp_path / "repo" / "net" / "1" / "model.onnx").is_file()
    assert main("pack", artifact.folder, "--bare", "--unverified").status == 2
