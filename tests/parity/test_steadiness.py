"""What a candidate, or a server, is asked when it is held against itself."""

from types import SimpleNamespace

import numpy as np

from segdeploy.artifact.verdict import Tolerance
from segdeploy.images.label_png import encode_png
from segdeploy.parity.determinism import determinism
from segdeploy.parity.inputs import Inputs, Picture
from segdeploy.parity.served import _steadiness
from segdeploy.parity.sessions import Recorder
from segdeploy.runtime import Prediction

PIXELS = np.zeros((200, 200, 3), np.uint8)
PICTURES = Inputs("one", (Picture("p", lambda: PIXELS, lambda: encode_png(PIXELS)),))
TOLERANCE = Tolerance(logits_max_abs=1e-4, mask_agreement=0.9999, miou_points=0.1)


def test_a_server_is_asked_twice():
    """One pixel of the second answer is another, too few to count in company: it counts all the same."""
    times = iter(range(100))

    def ask(data):
        del data
        labels = np.zeros((200, 200), np.uint8)
        labels[0, 0] = next(times) == 1
        return labels

    found = _steadiness(ask, PICTURES, TOLERANCE)
    assert (found.verdict, found.again, found.concurrent) == ("failed", 1, 0)


def test_other_shapes_are_run_in_between(make_manifest):
    """After two equal calls, the smallest and the largest; then the first picture again."""
    manifest, seen = make_manifest(), []

    def run(images, *, logits):
        assert logits
        seen.append(images.shape[:3])
        made = np.zeros((len(images), 3, 4, 4), np.float32)
        return Prediction(np.zeros(images.shape[:3], np.uint8), made)

    session = SimpleNamespace(run=run, artifact=SimpleNamespace(manifest=manifest), device="cpu")
    found = determinism(Recorder(session), PICTURES, TOLERANCE)
    assert found.verdict == "passed"
    assert seen[:2] == [(1, 16, 24)] * 2
    between = seen[2 : seen.index((1, 16, 24), 2)]
    assert {shape[1:] for shape in between} == {(8, 8), (64, 64)}
    assert seen[2 + len(between)] == (1, 16, 24)


def test_what_ran_it_is_named(onnx_artifact, images_folder):
    """The device, what runs the candidate there, and the processor's model."""
    from segdeploy.base.machine import cpu_model
    from segdeploy.parity.inputs import pictures_of_folder
    from segdeploy.parity.verify import verify

    pictures = pictures_of_folder(images_folder, 1)
    parity = verify(onnx_artifact, inputs=pictures, shapes=[(1, 64, 96)], device="cpu", record=False)
    assert (parity.device, parity.provider, parity.processor) == ("cpu", "CPUExecutionProvider", cpu_model())
