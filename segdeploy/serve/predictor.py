"""Bytes of images in, answers out, without a server: what the handler calls, and what tests can call without one."""

from __future__ import annotations

import logging
import os
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from segdeploy.artifact.folder import open_artifact
from segdeploy.artifact.manifest import Manifest
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
from segdeploy.serve.metrics import Observer, ignored
from segdeploy.serve.request import Answer, Request

_log = logging.getLogger(__name__)


class Predictor:
    """Segments the images of a batch of requests; one bad image fails alone."""

    def __init__(self, session: Session, max_pixels: int = MAX_PIXELS, observer: Observer = ignored) -> None:
        self._session, self._max_pixels, self._observer = session, max_pixels, observer
        self._manifest = session.artifact.manifest

    @property
    def manifest(self) -> Manifest:
        """Of the artifact that it runs."""
        return self._manifest

    def warm_up(self) -> None:
        """Run what the first request would otherwise wait for."""
        self.health()

    def health(self) -> None:
        """Run the model on a small picture.

        Raises:
            Exception: whatever the runtime raises where it cannot.
        """
        predict_batch(self._session, [np.full((64, 64, 3), 127, np.uint8)])

    def answer(self, requests: Sequence[Request]) -> list[Answer]:
        """Answer every request; never raises for one of them.

        Args:
            requests: an encoded image each (JPEG, PNG and what else OpenCV reads).

        Returns:
            As many answers, in order. Images that come to the artifact in one way run as one batch.
        """
        answers: dict[int, Answer] = {}
        groups: dict[Fitted, list[tuple[int, Image]]] = defaultdict(list)
        for index, request in enumerate(requests):
            decoded = self._decode(request.body)
            if isinstance(decoded, Answer):
                answers[index] = decoded
            else:
                fitted, image = decoded
                groups[fitted].append((index, image))
        for fitted, group in groups.items():
            for start in range(0, len(group), fitted.batch[1]):  # what fails in one batch fails there alone
                answers.update(self._run(group[start : start + fitted.batch[1]]))
        return [answers[index] for index in range(len(requests))]

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


def open_predictor(folder: Path, gpu: int | None, observer: Observer = ignored) -> Predictor:
    """Open an artifact for one worker, and log where it runs.

    ``SEGDEPLOY_WORKERS`` says among how many the CPU's threads are shared (1), ``SEGDEPLOY_MAX_PIXELS`` how large a picture
    may be.

    Args:
        folder: the artifact's.
        gpu: the worker's, counted from 0 among those that this process may see; None for the CPU.
        observer: is told what is measured.

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
    return Predictor(session, max_pixels, observer)


def _refusal(error: InputError) -> Answer:
    return Answer(422, str(error).encode("ascii", "replace"), "text/plain", "Unprocessable image")


def _failure(what: str) -> Answer:
    """For an exception that is being handled: it goes to the log, and not to the caller."""
    _log.exception(what)
    return Answer(500, b"the model failed on this image; the server's log says why", "text/plain", "Prediction failed")
