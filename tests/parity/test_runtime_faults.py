"""Faults of what runs a good graph: each must fail, and not be blamed on the graph. docs/parity.md lists them.

The session of the artifact is wrapped; the graph on disk stays right, so that every layer agrees while it is watched.
"""

import numpy as np
import pytest

from segdeploy.images.label_png import encode_png
from segdeploy.parity import verify as verifying
from segdeploy.parity.comparison import full_logits
from segdeploy.parity.inputs import Inputs, Picture, pictures_of_folder
from segdeploy.parity.verify import verify
from segdeploy.runtime import Prediction

SHAPES = [(1, 64, 96), (2, 75, 51), (3, 64, 96)]


class Faulty:
    """A session whose answers are spoiled: (its images, its right answer, what it remembers) -> a wrong one."""

    def __init__(self, session, fault):
        self.session, self.fault, self.memory = session, fault, {}
        self.artifact, self.device = session.artifact, session.device

    def run(self, images, *, logits=False):
        right = self.session.run(images, logits=True)
        self.memory["run"] = self.session.run
        mask, found = self.fault(images, right.mask.copy(), right.logits.copy(), self.memory)
        return Prediction(self.masks(found, images.shape) if mask is None else mask, found if logits else None)

    def masks(self, logits, shape):
        """The masks that belong to logits."""
        full = [full_logits(one, shape[1:3], self.artifact.manifest) for one in logits]
        return np.stack([one.argmax(0) for one in full]).astype(np.uint8)

    def __enter__(self):
        self.session.__enter__()
        return self

    def __exit__(self, *exception):
        self.session.__exit__(*exception)


def leak_between_images(images, mask, logits, memory):
    logits[1:] += 0.05 * logits[:-1]
    return None, logits


def answers_moved_by_one(images, mask, logits, memory):
    return np.roll(mask, 1, axis=0), np.roll(logits, 1, axis=0)


def first_image_only(images, mask, logits, memory):
    logits[1:] = logits[:1]
    return None, logits


def only_in_batches(images, mask, logits, memory):
    return None, logits * (1.05 if len(images) > 1 else 1.0)


def only_in_large_batches(images, mask, logits, memory):
    return None, logits + (0.5 * logits[..., ::-1] if len(images) > 2 else 0.0)


def stale_memory(images, mask, logits, memory):
    """The head of the buffer holds what the run of another shape left there."""
    before = memory.get("logits")
    memory["logits"] = logits.copy()
    if before is not None and before.shape != logits.shape:
        logits.reshape(-1)[:40] = before.reshape(-1)[:40]
    return None, logits


def stale_labels(images, mask, logits, memory):
    """The same in the mask alone."""
    before = memory.get("mask")
    memory["mask"] = mask.copy()
    if before is not None and before.shape != mask.shape:
        mask.reshape(-1)[:200] = before.reshape(-1)[:200]
    return mask, logits


def second_call_only(images, mask, logits, memory):
    memory[images.tobytes()] = times = memory.get(images.tobytes(), 0) + 1
    if times == 2:
        logits[:, 0] += 1.0
    return None, logits


def not_a_number_the_second_time(images, mask, logits, memory):
    memory[images.tobytes()] = times = memory.get(images.tobytes(), 0) + 1
    if times == 2:
        logits[0, 0, 0, 0] = np.nan
    return mask, logits


def labels_of_every_second_call(images, mask, logits, memory):
    memory[images.tobytes()] = times = memory.get(images.tobytes(), 0) + 1
    if times % 2 == 0:
        mask[:, :4] = (mask[:, :4] + 1) % 5
    return mask, logits


def depends_on_size(images, mask, logits, memory):
    return None, logits * (1.01 if images.shape[1] * images.shape[2] >= 64 * 96 else 1.0)


def odd_sizes_only(images, mask, logits, memory):
    return None, logits + (0.05 * logits[:, ::-1] if images.shape[1] % 2 else 0.0)


def transposed_where_not_square(images, mask, logits, memory):
    if images.shape[1] == images.shape[2]:
        return mask, logits
    turned = memory["run"](np.ascontiguousarray(images.transpose(0, 2, 1, 3)), logits=True)
    return turned.mask.transpose(0, 2, 1), turned.logits.transpose(0, 1, 3, 2)


def mirrored(images, mask, logits, memory):
    turned = memory["run"](np.ascontiguousarray(images[:, :, ::-1]), logits=True)
    return turned.mask[:, :, ::-1], turned.logits[..., ::-1]


def black_pictures_only(images, mask, logits, memory):
    black = images.max(axis=(1, 2, 3)) == 0
    logits[black] += np.arange(5).reshape(1, 5, 1, 1)
    return None, logits


def last_column_only(images, mask, logits, memory):
    mask[..., -1] = 0
    return mask, logits


def labels_that_overflow(images, mask, logits, memory):
    """Labels kept in two bits."""
    return mask % 4, logits


def ignored_in_the_mask(images, mask, logits, memory):
    """Void as a label of its own at the border, where only an annotation has it."""
    mask[:, :, 0] = 255
    return mask, logits


def mask_moved_by_a_pixel(images, mask, logits, memory):
    return np.roll(mask, 1, axis=2), logits


def lost_class_in_the_mask(images, mask, logits, memory):
    mask[mask == 1] = 0
    return mask, logits


# fault -> the stage, and words of the detail
FAULTS = {
    leak_between_images: ("runtime", "distinct pictures"),
    answers_moved_by_one: ("runtime", "distinct pictures"),
    first_image_only: ("runtime", "distinct pictures"),
    only_in_batches: ("runtime", "alone and in a batch"),
    only_in_large_batches: ("runtime", "alone and in a batch"),
    stale_memory: ("runtime", "other shapes"),
    stale_labels: ("runtime", "other shapes"),
    second_call_only: ("runtime", "the same picture twice"),
    not_a_number_the_second_time: ("runtime", "NaN or infinity"),
    labels_of_every_second_call: ("runtime", "the same picture twice"),
    depends_on_size: ("runtime", "while it is watched"),
    odd_sizes_only: ("runtime", "while it is watched"),
    transposed_where_not_square: ("runtime", "while it is watched"),
    mirrored: ("runtime", "while it is watched"),
    black_pictures_only: ("runtime", "while it is watched"),
    last_column_only: ("postprocessing", "in the graph"),
    labels_that_overflow: ("postprocessing", "in the graph"),
    ignored_in_the_mask: ("postprocessing", "in the graph"),
    mask_moved_by_a_pixel: ("postprocessing", "in the graph"),
    lost_class_in_the_mask: ("postprocessing", "in the graph"),
}


@pytest.fixture(scope="module")
def pictures(images_folder):
    """Three of the folder, and a black one."""
    pixels = np.zeros((64, 96, 3), np.uint8)
    black = Picture("black", lambda: pixels, lambda: encode_png(pixels))
    return Inputs("four pictures", (*pictures_of_folder(images_folder, 3).pictures, black))


@pytest.fixture
def verified(onnx_artifact, pictures, monkeypatch):
    """Verifies the good artifact, run by a session with a fault."""

    def run(fault, **options):
        opening = verifying.open_session

        def opened(artifact, device):
            session = opening(artifact, device)
            return Faulty(session, fault) if artifact.manifest.format == "onnx" else session

        monkeypatch.setattr(verifying, "open_session", opened)
        return verify(onnx_artifact, **{"inputs": pictures, "shapes": SHAPES, **options}, record=False, device="cpu")

    return run


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_a_fault_of_the_runtime(verified, fault):
    """It fails, and is not blamed on the graph."""
    parity = verified(fault)
    assert parity.verdict == "failed"
    stage, words = FAULTS[fault]
    found = parity.divergence
    assert found.stage == stage, found
    assert words in found.detail
    assert found.sure


def test_the_wrapping_itself_is_no_fault(verified):
    """Spoiling nothing passes: the faults are what fails above."""
    parity = verified(lambda images, mask, logits, memory: (None, logits))
    assert parity.verdict == "passed", parity.checks


@pytest.mark.parametrize(
    "fault", [leak_between_images, answers_moved_by_one, stale_memory, stale_labels], ids=lambda f: f.__name__
)
def test_one_picture_is_enough(verified, pictures, fault):
    """With one picture, others are made of it: company and other shapes are tried all the same."""
    one = Inputs("one picture", pictures.pictures[:1])
    assert verified(fault, inputs=one, shapes=[(1, 64, 96)]).determinism.verdict == "failed"
