"""Running the reference and a candidate on the same pictures: at their own sizes, and at other shapes."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from segdeploy.artifact.manifest import Manifest
from segdeploy.base.progress import progress_bar
from segdeploy.images.arrays import Image, Logits
from segdeploy.images.resize import resize_image
from segdeploy.parity.inputs import Inputs, Picture
from segdeploy.parity.judge import Judge
from segdeploy.parity.sessions import Call, Recorder, Replay, fitted_resize
from segdeploy.parity.shapes import default_shapes
from segdeploy.runtime.predictor import network_logits, predict_labels, prepare
from segdeploy.runtime.session import check_shape


@dataclass(frozen=True)
class Question:
    """What is to be compared.

    Attributes:
        inputs: the pictures, each at its own size.
        shapes: (N, H, W) beside that.
        every: run every picture at those shapes; False for one batch a shape.
    """

    inputs: Inputs
    shapes: tuple[tuple[int, int, int], ...]
    every: bool


def question(manifest: Manifest, inputs: Inputs, shapes: Sequence[tuple[int, int, int]] | None) -> Question:
    """Every picture at its own size, and at the shapes given; or one batch at each of ``default_shapes``.

    A default shape is there to find what goes wrong with the shape, not with the picture.

    Raises:
        InputError: the artifact does not take one of the shapes.
    """
    if shapes:
        for shape in shapes:
            check_shape(shape, manifest)
        return Question(inputs, tuple(shapes), every=True)
    return Question(inputs, tuple(default_shapes(manifest)), every=False)


def run_all(original: Recorder, candidate: Recorder | None, asked: Question, judge: Judge, label: str) -> None:
    """Run both on everything and hand it to the judge. Without a candidate only the original runs."""
    batches = sum(-(-len(asked.inputs.pictures) // count) if asked.every else 1 for count, _, _ in asked.shapes)
    # NaN and infinity are judged; nobody needs to be warned of them as well.
    with np.errstate(invalid="ignore"), progress_bar(label, len(asked.inputs.pictures) + batches) as advance:
        for picture in asked.inputs.pictures:
            _compare_own_size(original, candidate, picture, judge)
            advance()
        for shape in asked.shapes:
            judge.begin_shape(shape)
            for names, batch in _batches(asked, shape):
                theirs = forward_passes(original, batch)
                if candidate is not None:
                    judge.add_calls(names, theirs, forward_passes(candidate, batch))
                advance()


def _compare_own_size(original: Recorder, candidate: Recorder | None, picture: Picture, judge: Judge) -> None:
    """Segment a picture by mmseg's protocol, its own size first and last."""
    image = picture.read()
    resize = fitted_resize((candidate or original).base.manifest, image.shape[0], image.shape[1])
    original.begin(resize)
    theirs = predict_labels(original, image)
    if candidate is not None:
        candidate.begin(resize)
        ours = predict_labels(candidate, image)
        judge.add_picture(picture, (theirs, original.calls), (ours, candidate.calls), full_logits_of(original, image))


def _batches(asked: Question, shape: tuple[int, int, int]) -> Iterator[tuple[list[str], NDArray[np.uint8]]]:
    """The pictures, resized, in batches of one shape, with their names."""
    count, height, width = shape
    pictures = asked.inputs.pictures
    for start in range(0, len(pictures) if asked.every else 1, count):
        # The last batch is filled up from the front: a static batch axis takes no other size.
        chosen = [pictures[(start + index) % len(pictures)] for index in range(count)]
        yield [picture.name for picture in chosen], np.stack([resize_image(one.read(), height, width) for one in chosen])


def full_logits_of(original: Recorder, image: Image) -> Callable[[], Logits]:
    """The reference's logits [K, H', W'] at the network's input size of what was recorded; asked where labels differ."""
    replay = Replay(original)

    @functools.cache
    def logits() -> Logits:
        return np.asarray(network_logits(replay, prepare(image, replay.artifact.manifest)[None])[0])

    return logits


def forward_passes(recorder: Recorder, batch: NDArray[np.uint8]) -> list[Call]:
    """Run one batch, uint8 [N, H, W, 3], and give what it took."""
    recorder.begin(recorder.base.manifest.preprocess.resize)
    recorder.run(batch)
    return recorder.calls
