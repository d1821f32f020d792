import msgspec
import numpy as np
import pytest

from segdeploy.artifact.folder import Artifact
from segdeploy.base.errors import ArtifactError, BackendError, MissingExtraError
from segdeploy.runtime import open_session
from segdeploy.runtime.backends import openvino as backend

pytest.importorskip("openvino", reason="openvino is not installed")
IMAGES = np.random.default_rng(3).integers(0, 256, (2, 70, 90, 3), dtype=np.uint8)


def changed(artifact, **changes):
    return Artifact(artifact.folder, msgspec.structs.replace(artifact.manifest, **changes))


def told(session):
    return {name: session._model.get_property(name) for name in ("INFERENCE_PRECISION_HINT", "INFERENCE_NUM_THREADS")}


def test_fp32_is_fp32(openvino_artifact, eager):
    """Left to itself OpenVINO computes in bfloat16 where the processor has it: it is told not to, and does not."""
    with open_session(openvino_artifact, "cpu", 1) as session:
        assert told(session)["INFERENCE_PRECISION_HINT"].to_string() == "f32"
        ours, theirs = session.run(IMAGES, logits=True), eager.run(IMAGES, logits=True)
    scale = np.abs(theirs.logits).max()
    assert np.abs(ours.logits - theirs.logits).max() < 1e-5 * scale
    assert (ours.mask != theirs.mask).mean() < 1e-3


def test_an_older_manifest_means_fp32(openvino_artifact):
    """A manifest that names no precision of arithmetic never leaves the choice to the runtime."""
    with open_session(changed(openvino_artifact, inference_precision=None), "cpu", 1) as session:
        assert told(session)["INFERENCE_PRECISION_HINT"].to_string() == "f32"


def test_threads(openvino_artifact):
    """As many as were asked for."""
    for threads in (1, 2):
        with open_session(openvino_artifact, "cpu", threads) as session:
            assert told(session)["INFERENCE_NUM_THREADS"] == threads


def test_predictions_are_copies(openvino_artifact):
    """The next run does not write over what an earlier one returned."""
    with open_session(openvino_artifact, "cpu", 1) as session:
        first = session.run(IMAGES, logits=True)
        mask, logits = first.mask.copy(), first.logits.copy()
        session.run(255 - IMAGES, logits=True)
    assert np.array_equal(first.mask, mask)
    assert np.array_equal(first.logits, logits)


def test_bf16_needs_a_processor_that_has_it(openvino_artifact, monkeypatch):
    """OpenVINO would emulate it: it is refused in one line."""
    monkeypatch.setattr(backend, "cpu_flags", lambda: frozenset({"avx2", "avx512f"}))
    with pytest.raises(BackendError, match="bfloat16 instructions .*; got .*which has none; use --precision"):
        open_session(changed(openvino_artifact, inference_precision="bf16"), "cpu", 1)


def test_bf16_is_what_runs(openvino_artifact, monkeypatch):
    """Where the processor has it, the runtime is told to; the logits are then off by more than float32 would be."""
    if backend._BF16_FLAGS.isdisjoint(backend.cpu_flags()):
        pytest.skip("this processor has no bfloat16")
    exact = changed(openvino_artifact, inference_precision="f32")
    rounded = changed(openvino_artifact, inference_precision="bf16")
    with open_session(exact, "cpu", 1) as one, open_session(rounded, "cpu", 1) as other:
        assert told(other)["INFERENCE_PRECISION_HINT"].to_string() == "bf16"
        ours, theirs = other.run(IMAGES, logits=True).logits, one.run(IMAGES, logits=True).logits
    error = np.abs(ours - theirs).max() / np.abs(theirs).max()
    assert 1e-4 < error < 5e-2


def test_no_cuda(openvino_artifact):
    """Asking for CUDA is an error, never a silent CPU run."""
    with pytest.raises(BackendError, match="--device cpu for the openvino backend; got --device cuda; .*--to onnx"):
        open_session(openvino_artifact, "cuda")


def test_without_openvino(openvino_artifact, monkeypatch):
    """The extra is named."""
    import sys

    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(MissingExtraError, match=r"segdeploy\[openvino\]"):
        open_session(openvino_artifact, "cpu")


def test_a_file_that_is_no_model(copied, openvino_artifact):
    """OpenVINO's refusal is one line."""
    artifact = copied(openvino_artifact)
    artifact.model_path.write_text("<net/>")
    with pytest.raises(ArtifactError, match="a model that OpenVINO .* can load") as caught:
        open_session(artifact, "cpu")
    assert "\n" not in str(caught.value)
