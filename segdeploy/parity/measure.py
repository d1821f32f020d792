"""Running the reference and a candidate on the same pictures: at their own sizes, and at other shapes."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from segdeploy.artifact.manifest import Manifest
from segdeploy.base.progress import progress_bar
from segdeploy.images.arrays import Image, Logits
from segdeploy.images.resize import resize_image
from segdeploy.parity.inputs import Inputs, Picture
from segdeploy.parity.judge import Judge
from segdeploy.parity.sessions import Call, Recorder, Reference, Replay
from segdeploy.parity.shapes import default_shapes
from segdeploy.runtime.fitting import Fitted, filled, fit_picture, given_batches, prepared
from segdeploy.runtime.predictor import network_logits, predict_batch
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


def run_all(
    original: Reference, candidate: Recorder | None, asked: Question, judge: Judge, *, manifest: Manifest, label: str
) -> None:
    """Run both on everything and hand it to the judge. Without a candidate, of that ``manifest``, only the original runs."""
    batches = sum(-(-len(asked.inputs.pictures) // count) if asked.every else 1 for count, _, _ in asked.shapes)
    # NaN and infinity are judged; nobody needs to be warned of them as well.
    with np.errstate(invalid="ignore"), progress_bar(label, len(asked.inputs.pictures) + batches) as advance:
        for group in together(asked.inputs.pictures, manifest):
            judge.pictures.extend(map(fingerprint, group.images))
            _compare_own_size(original, candidate, group, manifest, judge)
            advance(len(group.pictures))
        for shape in asked.shapes:
            judge.begin_shape(shape)
            for names, batch in _batches(asked, shape):
                theirs = forward_passes(original, batch)
                if candidate is not None:
                    judge.add_calls(names, theirs, forward_passes(candidate, batch))
                advance()


@dataclass(frozen=True)
class Group:
    """Pictures that come to the artifact in one way, in one batch.

    Attributes:
        fitted: that way.
        pictures: no more than the artifact's smallest batch.
        images: as they are read, uint8 [H, W, 3].
    """

    fitted: Fitted
    pictures: list[Picture]
    images: list[Image]


def together(pictures: Sequence[Picture], manifest: Manifest) -> Iterator[Group]:
    """Neighbours that come to the artifact in one way, as many as its smallest batch.

    A batch that is filled up holds other pictures where there are any: of one picture alone, repeated, an image that reaches
    into another's answer would not be seen.
    """
    group: Group | None = None
    for picture in pictures:
        image = picture.read()
        fitted = fit_picture(image.shape[0], image.shape[1], manifest)
        if group is None or fitted != group.fitted or len(group.pictures) == fitted.batch[0]:
            if group is not None:
                yield group
            group = Group(fitted, [], [])
        group.pictures.append(picture)
        group.images.append(image)
    if group is not None:
        yield group


def fingerprint(image: Image) -> str:
    """What tells a picture, uint8 [H, W, 3], from others, in whatever file it lies."""
    return hashlib.sha256(repr(image.shape).encode() + np.ascontiguousarray(image).tobytes()).hexdigest()[:12]


def reference_calls(original: Reference, group: Group, manifest: Manifest) -> list[Call]:
    """The reference's forward passes on what the artifact is given of a group: the very batches that are stored of it."""
    original.begin()
    for _, given in given_batches(prepared(group.images, group.fitted), group.fitted, manifest.preprocess):
        original.run(filled(given, group.fitted.batch[0]))
    return original.calls


def _compare_own_size(original: Reference, candidate: Recorder | None, group: Group, manifest: Manifest, judge: Judge) -> None:
    """Labels at the pictures' own sizes against mmseg's own; logits of the images that the artifact is given on the way."""
    fitted = group.fitted
    told = [original.segment(picture.encoded()) for picture in group.pictures]
    calls = reference_calls(original, group, manifest)
    if candidate is None:
        return
    candidate.begin()
    ours = predict_batch(candidate, group.images)
    batch = prepared(group.images, fitted)
    error = judge.add_own([picture.name for picture in group.pictures], calls, candidate.calls)
    if fitted.exact:
        for index, picture in enumerate(group.pictures):
            judge.add_labels(picture, told[index].labels, ours[index], told[index].logits, error)
            judge.note_way(picture.name, batch[index], told[index].image)
        return
    through = predict_batch(Replay(candidate.artifact, original, calls), group.images)

    @functools.cache
    def logits() -> Logits:
        return network_logits(Replay(candidate.artifact, original, calls), batch, fitted)

    for index, picture in enumerate(group.pictures):
        judge.add_fitted(
            picture, told[index].labels, ours[index], through[index], logits=partial(_at, logits, index), error=error
        )


def _at(logits: Callable[[], Logits], index: int) -> Logits:
    return logits()[index]


def _batches(asked: Question, shape: tuple[int, int, int]) -> Iterator[tuple[list[str], NDArray[np.uint8]]]:
    """The pictures, resized, in batches of one shape, with their names."""
    count, height, width = shape
    pictures = asked.inputs.pictures
    for start in range(0, len(pictures) if asked.every else 1, count):
        # The last batch is filled up from the front: a static batch axis takes no other size.
        chosen = [pictures[(start + index) % len(pictures)] for index in range(count)]
        yield [picture.name for picture in chosen], np.stack([resize_image(one.read(), height, width) for one in chosen])


def forward_passes(recorder: Recorder, batch: NDArray[np.uint8]) -> list[Call]:
    """Run one batch, uint8 [N, H, W, 3], and give what it took."""
    recorder.begin()
    recorder.run(batch)
    return recorder.calls
