"""Faults in what a rewrite replaced: the verdict speaks of the checkpoint's modules, and looks at all of them."""

import pytest

from segdeploy.artifact.folder import write_artifact
from segdeploy.export.export import export_model
from segdeploy.export.options import Options
from segdeploy.export.shapes import choose_shapes
from segdeploy.models.checkpoint import load_checkpoint
from segdeploy.parity.inputs import noise
from segdeploy.parity.verify import verify

onnx = pytest.importorskip("onnx")
from support.models import HEAD  # noqa: E402  only where onnx is there
from support.planting import edit  # noqa: E402  likewise

ISA = {**HEAD, "type": "ISAHead", "in_channels": 64, "in_index": 3, "isa_channels": 8, "down_factor": (4, 4)}


def perturbed_attention(model):
    """A projection of ISANet's head, all of which a rewrite replaces."""
    edit(model, "decode_head.local_relation.output_project.conv.weight", lambda weight: weight * 1.5)


FAULTS = {perturbed_attention: ("graph", "decode_head.local_relation.output_project.conv", "its input being right")}


def test_a_fault_in_a_rewritten_head(random_variant, tmp_path):
    """It is named by its module in the checkpoint, and the verdict is sure: no layer was left out."""
    path, _ = random_variant("isa", model__decode_head=ISA)
    shapes = choose_shapes((64, 96), largest="256x256")
    good = export_model(load_checkpoint(path), "onnx", tmp_path / "good", name="isa", shapes=shapes, options=Options())

    def write(folder):
        model = onnx.load(good.model_path)
        perturbed_attention(model)
        onnx.save(model, folder / "model.onnx")
        return good.manifest

    artifact = write_artifact(tmp_path / "faulty", write)
    parity = verify(artifact, inputs=noise(good.manifest, 1), shapes=[(1, 64, 96)], record=False)
    assert parity.verdict == "failed"
    stage, module, words = FAULTS[perturbed_attention]
    assert (parity.divergence.stage, parity.divergence.module) == (stage, module), parity.divergence
    assert words in parity.divergence.detail
    assert parity.divergence.sure
