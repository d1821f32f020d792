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


def grey(count):
    """Pictures of one value each: 1, 2, ..."""
    found = [np.full((16, 24, 3), 1 + index, np.uint8) for index in range(count)]
    return Inputs("grey", tuple(Picture(str(one[0, 0, 0]), lambda one=one: one, lambda: b"") for one in found))


def held(manifest, inputs, wrong=lambda turn, index: 0):
    """The verdict on a candidate that gives 0 everywhere but in so many pixels of a pass's image, and what it was given."""
    seen = []

    def run(images, *, logits):
        assert logits
        made = np.zeros((len(images), 3, *images.shape[1:3]), np.float32)
        made[:, 0] = 2.0
        for index in range(len(images)):
            made[index, 1].flat[: wrong(len(seen), index)] = 4.0
        seen.append((images.shape[1:3], [int(one[0, 0, 0]) for one in images]))
        return Prediction(made.argmax(1).astype(np.uint8), made)

    session = SimpleNamespace(run=run, artifact=SimpleNamespace(manifest=manifest), device="cpu")
    return determinism(Recorder(session), inputs, TOLERANCE), seen


def test_which_pictures_are_run(make_manifest):
    """The first twice and again after others, then three distinct ones together and each of the others alone."""
    found, seen = held(make_manifest(), grey(4))
    at_best = [pictures for shape, pictures in seen if shape == (16, 24)]
    assert at_best == [[1], [1], [1], [1, 2, 3], [2], [3]]
    assert {pictures[0] for shape, pictures in seen if shape != (16, 24)} == {2}
    assert (found.verdict, found.again, found.after, found.batched) == ("passed", 0, 0, 0)


def test_labels_that_differ_are_counted(make_manifest):
    """Of the second pass, of that after other shapes, and of all images in company: each fails by itself."""
    _, seen = held(make_manifest(), grey(4))
    after, together = len(seen) - 4, len(seen) - 3
    for turn, counts in ((1, (5, 0, 0)), (after, (0, 5, 0)), (together, (0, 0, 15))):
        found, _ = held(make_manifest(), grey(4), lambda now, index, turn=turn: 5 * (now == turn))
        assert (found.verdict, (found.again, found.after, found.batched)) == ("failed", counts)
        assert found.pixels == 16 * 24


def test_what_ran_it_is_named(onnx_artifact, images_folder):
    """The device, what runs the candidate there, and the processor's model."""
    from segdeploy.base.machine import cpu_model
    from segdeploy.parity.inputs import pictures_of_folder
    from segdeploy.parity.verify import verify

    pictures = pictures_of_folder(images_folder, 1)
    parity = verify(onnx_artifact, inputs=pictures, shapes=[(1, 64, 96)], device="cpu", record=False)
    assert (parity.device, parity.provider, parity.processor) == ("cpu", "CPUExecutionProvider", cpu_model())
