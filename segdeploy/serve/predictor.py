"""Bytes of images in, answers out, without a server: what the handler calls, and what tests can call without one."""

from __future__ import annotations

import logging
import os
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from segdeploy.artifact.folder import open_artifact
from segdeploy.base.errors import InputError
from segdeploy.base.machine import compute_threads
from segdeploy.images.arrays import Image
from segdeploy.images.decode import MAX_PIXELS, decode_image
from segdeploy.images.label_png import label_png
from segdeploy.runtime.fitting import Fitted, fit_picture
from segdeploy.runtime.open import open_session
from segdeploy.runtime.predictor import predict_batch
from segdeploy.runtime.session import Session
from segdeploy.serve import environment

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Answer:
    """What one request gets.

    Attributes:
        status: of HTTP.
        body: a palette PNG whose pixel values are labels, at the image's own size; or the error's text.
        content_type: of the body.
        phrase: of the status line; ASCII, because other characters derail TorchServe's protocol.
    """

    status: int
    body: bytes
    content_type: str
    phrase: str = ""


class Predictor:
    """Segments the images of a batch of requests; one bad image fails alone."""

    def __init__(self, session: Session, max_pixels: int = MAX_PIXELS) -> None:
        self._session, self._max_pixels = session, max_pixels
        self._manifest = session.artifact.manifest

    def answer(self, bodies: Sequence[bytes]) -> list[Answer]:
        """Answer every request.

        Args:
            bodies: an encoded image each (JPEG, PNG and what else OpenCV reads).

        Returns:
            As many answers, in order. Images that come to the artifact in one way run as one batch.
        """
        answers: dict[int, Answer] = {}
        groups: dict[Fitted, list[tuple[int, Image]]] = defaultdict(list)
        for index, body in enumerate(bodies):
            decoded = self._decode(body)
            if isinstance(decoded, Answer):
                answers[index] = decoded
            else:
                fitted, image = decoded
                groups[fitted].append((index, image))
        for fitted, group in groups.items():
            for start in range(0, len(group), fitted.batch[1]):  # what fails in one batch fails there alone
                answers.update(self._run(group[start : start + fitted.batch[1]]))
        return [answers[index] for index in range(len(bodies))]

    def _decode(self, body: bytes) -> tuple[Fitted, Image] | Answer:
        """How an image comes to the artifact, and the image; or why not."""
        try:
            image = decode_image(body, "the request's body", max_pixels=self._max_pixels)
            height, width = image.shape[:2]
            return fit_picture(height, width, self._manifest), image
        except InputError as error:
            return _refusal(error)
        except Exception:  # noqa: BLE001  a decoder can raise anything, and must not cost the other requests their answers
            return _failure("decoding failed")

    def _run(self, items: list[tuple[int, Image]]) -> dict[int, Answer]:
        images = [image for _, image in items]
        try:
            masks = predict_batch(self._session, images)
            answers = [Answer(200, label_png(mask, self._manifest.palette, fast=True), "image/png") for mask in masks]
        except InputError as error:  # a size that the artifact does not take: all of the group have it
            answers = [_refusal(error)] * len(items)
        except Exception:  # noqa: BLE001  whatever the runtime raises, the other requests of the batch still get their answers
            answers = [_failure("prediction failed")] * len(items)
        return {index: answer for (index, _), answer in zip(items, answers, strict=True)}


def open_predictor(folder: Path, gpu: int | None) -> Predictor:
    """Open an artifact for one worker, and log where it runs.

    ``SEGDEPLOY_WORKERS`` says among how many the CPU's threads are shared (1), ``SEGDEPLOY_MAX_PIXELS`` how large a picture
    may be.

    Args:
        folder: the artifact's.
        gpu: the worker's, counted from 0 among those that this process may see; None for the CPU.

    Raises:
        ArtifactError: the artifact is incomplete or altered.
        BackendError: it cannot run here.
        InputError: an environment variable that is no number.
    """
    max_pixels = environment.positive_number(environment.MAX_PIXELS, MAX_PIXELS)
    threads = compute_threads(environment.positive_number(environment.WORKERS, 1))
    if gpu is not None:
        # Every backend takes the first GPU that it sees: it shall see this worker's alone.
        visible = [name.strip() for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
        os.environ["CUDA_VISIBLE_DEVICES"] = visible[gpu] if gpu < len(visible) else str(gpu)
    session = open_session(open_artifact(folder), "cpu" if gpu is None else "auto", threads)
    asked = "the CPU" if gpu is None else f"GPU {gpu}"
    text = "%s: this worker was given %s, the model runs on %s; CPU threads: %d"
    _log.info(text, session.artifact.name, asked, session.device, threads)
    return Predictor(session, max_pixels)


def _refusal(error: InputError) -> Answer:
    return Answer(422, str(error).encode("ascii", "replace"), "text/plain", "Unprocessable image")


def _failure(what: str) -> Answer:
    """For an exception that is being handled: it goes to the log, and not to the caller."""
    _log.exception(what)
    return Answer(500, b"the model failed on this image; the server's log says why", "text/plain", "Prediction failed")
