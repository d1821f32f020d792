"""Names in an ONNX file that say where a node came from, and a file that is the same wherever it is made."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from segdeploy.base.files import sha256_file

onnx = pytest.importorskip("onnx")


@pytest.fixture(scope="module")
def model(onnx_artifact):
    return onnx.load(onnx_artifact.model_path)


def test_nodes_are_named_by_module(model):
    """Every name is unique and is a module of the model with the operator; a convolution's is that of its weight."""
    names = [node.name for node in model.graph.node]
    assert len(set(names)) == len(names)
    outputs = {value.name for value in model.graph.output}
    for node in model.graph.node:
        module, _, operator = node.name.partition("/")
        assert operator.partition("_")[0] == node.op_type
        assert node.op_type != "Conv" or re.fullmatch(rf"{re.escape(module)}\.(weight|far_\d_\d)", node.input[1])
        assert set(node.output) <= outputs or node.output[0] == node.name
    assert {name.partition(".")[0].partition("/")[0] for name in names} == {"graph", "backbone", "decode_head"}


def test_nodes_are_where_the_modules_are(model, mmseg_model):
    """The modules named exist in the model that mmseg builds, in the order of the forward pass."""
    theirs = dict(mmseg_model.named_modules())
    ours = [node.name.partition("/")[0] for node in model.graph.node]
    assert not {name for name in ours if name != "graph"} - set(theirs)
    stages = [name.split(".")[1] for name in ours if name.startswith("backbone.layer")]
    assert stages == sorted(stages)


def test_no_paths(onnx_artifact):
    """Nothing of the machine that exported is in the file."""
    content = onnx_artifact.model_path.read_bytes()
    for trace in (b"site-packages", b"segdeploy/", b'File "', str(Path.cwd()).encode()):
        assert trace not in content


AGAIN = """
import sys
from pathlib import Path
from pathlib import Path
from segdeploy.models.checkpoint import load_checkpoint
from segdeploy.export.export import export_model
from segdeploy.export.shapes import choose_shapes
shapes = choose_shapes({crop!r}, largest="256x256")
export_model(load_checkpoint(Path({checkpoint!r})), "onnx", Path("again"), name="tiny", shapes=shapes)
"""


@pytest.mark.slow
def test_the_same_bytes_again(onnx_artifact, checkpoint_path, config_values, tmp_path):
    """Another process, another folder, another hash seed: the same file."""
    code = AGAIN.format(crop=config_values["crop_size"], checkpoint=str(checkpoint_path))
    environment = os.environ | {"PYTHONHASHSEED": "7", "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, check=True)
    assert sha256_file(tmp_path / "again" / "model.onnx") == onnx_artifact.manifest.files[0].sha256
