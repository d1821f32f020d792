"""Bytes of images in, answers out, without a server: what the handler calls, and what tests can call without one."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from segdeploy.core.errors import InputError
from segdeploy.core.imaging import Image, decode_image, label_png, network_size
from segdeploy.core.manifest import Bounds
from segdeploy.runtime.predictor import predict_batch
from segdeploy.runtime.session import Session

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

    def __init__(self, session: Session) -> None:
        self._session = session
        self._manifest = session.artifact.manifest
        batch = self._manifest.input.shape[0]
        self._largest_batch = batch.max if isinstance(batch, Bounds) else batch
        self._smallest_batch = batch.min if isinstance(batch, Bounds) else batch

    def answer(self, bodies: Sequence[bytes]) -> list[Answer]:
        """Answer every request.

        Args:
            bodies: an encoded image each (JPEG, PNG and what else OpenCV reads).

        Returns:
            As many answers, in order. Images of one network input size run as one batch.
        """
        answers: dict[int, Answer] = {}
        groups: dict[tuple[int, int], list[tuple[int, Image]]] = defaultdict(list)
        for index, body in enumerate(bodies):
            try:
                image = decode_image(body, "the request's body")
                height, width = image.shape[:2]
                size = network_size(height, width, self._manifest.preprocess.resize)
            except InputError as error:
                answers[index] = _refusal(error)
                continue
            groups[size].append((index, image))
        for group in groups.values():
            for start in range(0, len(group), self._largest_batch):
                answers.update(self._run(group[start : start + self._largest_batch]))
        return [answers[index] for index in range(len(bodies))]

    def _run(self, items: list[tuple[int, Image]]) -> dict[int, Answer]:
        images = [image for _, image in items]
        # A static batch axis takes no fewer: the last image fills it up, and its further answers are dropped.
        images += images[-1:] * (self._smallest_batch - len(images))
        try:
            masks = predict_batch(self._session, images)[: len(items)]
        except InputError as error:  # a size that the artifact does not take: all of the group have it
            return {index: _refusal(error) for index, _ in items}
        except Exception:  # noqa: BLE001  whatever the runtime raises, the other requests of the batch still get their answers
            _log.exception("prediction failed")
            text = "the model failed on this image; the server's log says why"
            return {index: Answer(500, text.encode(), "text/plain", "Prediction failed") for index, _ in items}
        palette = self._manifest.palette
        return {
            index: Answer(200, label_png(mask, palette), "image/png") for (index, _), mask in zip(items, masks, strict=True)
        }


def _refusal(error: InputError) -> Answer:
    return Answer(422, str(error).encode("ascii", "replace"), "text/plain", "Unprocessable image")
