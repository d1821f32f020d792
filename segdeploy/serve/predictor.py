"""Requests in, answers out, without a server: what every server calls, and what tests can call without one."""

from __future__ import annotations

import logging
import os
import time
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from segdeploy.artifact.axes import bounds
from segdeploy.artifact.folder import open_artifact
from segdeploy.artifact.manifest import Manifest
from segdeploy.base.errors import InputError, ServeError
from segdeploy.base.machine import compute_threads
from segdeploy.images.arrays import Image
from segdeploy.images.decode import MAX_PIXELS, decode_image
from segdeploy.images.label_png import encode_png
from segdeploy.runtime.fitting import Fitted, fit_picture, ranges_of
from segdeploy.runtime.memory import ran_out_of_memory
from segdeploy.runtime.open import open_session
from segdeploy.runtime.predictor import predict_batch
from segdeploy.runtime.session import Session
from segdeploy.runtime.watched import Watched
from segdeploy.serve import environment
from segdeploy.serve.answers import Result, Segmented, Writer, answer_of, failed, refused
from segdeploy.serve.drift import Drift
from segdeploy.serve.metrics import CONFIDENCE, PIXEL_SHARE, REQUESTS, STAGE, Observer, ignored
from segdeploy.serve.parsing import Asked, Limits, parse_request
from segdeploy.serve.request import Answer, Request

_log = logging.getLogger(__name__)

_HELPERS = 4  # threads that decode and encode at most
_SMALL = 64


@dataclass
class _Item:
    """One picture of a request on its way.

    Attributes:
        asked: the request.
        index: of the picture in it.
        milliseconds: stage -> time.
        found: after the forward pass.
    """

    asked: Asked
    index: int
    milliseconds: dict[str, float] = field(default_factory=dict)
    found: Segmented | None = None

    def settle(self, result: Result) -> None:
        """Its answer is known."""
        self.asked.results[self.index] = result

    def late(self) -> bool:
        """Whether nobody waits for it any more; it is answered then."""
        deadline = self.asked.request.deadline
        over = 0.0 if deadline is None else time.monotonic() - deadline
        if over > 0:
            got = f"it was still waiting {1e3 * over:.0f} ms after it"
            self.settle(
                failed(504, expected="an answer before the request's deadline", got=got, fix="wait longer, or ask less")
            )
        return over > 0

    def __str__(self) -> str:
        return f"request {self.asked.request.request_id or 'without an id'}, picture {self.index + 1}"


class Predictor:
    """Segments the pictures of a batch of requests; one bad picture fails alone. May be called from several threads."""

    def __init__(self, session: Session, max_pixels: int = MAX_PIXELS, observer: Observer = ignored) -> None:
        """Around an open session.

        Args:
            session: any backend.
            max_pixels: of a picture, and of all in a request together.
            observer: is told what is measured.
        """
        self._session, self._limits, self._observer = session, Limits(max_pixels), observer
        self._manifest = session.artifact.manifest
        self._writer = Writer(self._manifest)
        self._drift = Drift(self._manifest.classes)
        self._pool = ThreadPoolExecutor(min(_HELPERS, os.cpu_count() or 1), "segdeploy-pictures")

    @property
    def manifest(self) -> Manifest:
        """Of the artifact that it runs."""
        return self._manifest

    def warm_up(self, batch: int = 1) -> None:
        """Run what the first requests would otherwise wait for, at the shapes that the artifact was made for.

        Args:
            batch: so many requests may come together.
        """
        engine = self._manifest.engine
        opts = [one.opt for one in engine.profiles] if engine else [tuple(bounds(a)[1] for a in self._manifest.input.shape[:3])]
        for (opt, height, width), limits in zip(opts, ranges_of(self._manifest), strict=True):
            least, most = limits.batch
            for count in {least, opt, min(max(batch, least), most)}:
                for logits in (False, True):
                    self._session.run(np.zeros((count, height, width, 3), np.uint8), logits=logits)
        self._answer([Request(encode_png(np.full((height, width, 3), 127, np.uint8)))])

    def health(self) -> None:
        """Run the model on a small picture.

        Raises:
            ServeError: what it gives is no mask.
            Exception: whatever the runtime raises where it cannot.
        """
        limits = ranges_of(self._manifest)[0]
        height, width = limits.nearest((_SMALL, _SMALL))
        shape = limits.batch[0], height, width
        mask = self._session.run(np.full((*shape, 3), 127, np.uint8)).mask
        if mask.shape != shape or int(mask.max()) >= max(2, len(self._manifest.classes)):
            got = f"{list(mask.shape)} up to {mask.max()}"
            raise ServeError(expected=f"labels {list(shape)} of {self._manifest.label}", got=got, fix="start the server anew")

    def answer(self, requests: Sequence[Request]) -> list[Answer]:
        """Answer every request; never raises for what is in one.

        Args:
            requests: as they come.

        Returns:
            As many answers, in order. Pictures that come to the artifact in one way run as one batch.
        """
        asked, items = self._answer(requests)
        answers = []
        for one in asked:
            results = [result or _broken(one.request.request_id) for result in one.results]
            answers.append(answer_of(results, [picture.name for picture in one.pictures], one.request.request_id))
        try:
            self._report(answers, items)
        except Exception:  # noqa: BLE001  what is measured must not cost anybody an answer
            _log.exception("metrics")
        return answers

    def _answer(self, requests: Sequence[Request]) -> tuple[list[Asked], list[_Item]]:
        asked = [self._parsed(request) for request in requests]
        items = [_Item(one, index) for one in asked for index in range(len(one.pictures)) if one.results[index] is None]
        helped = len(items) > 1  # a thread for one picture would only cost
        decoded_all = self._pool.map(self._decode, items) if helped else map(self._decode, items)
        groups: dict[Fitted, list[tuple[_Item, Image]]] = defaultdict(list)
        for item, decoded in zip(items, decoded_all, strict=True):
            if decoded is not None:
                groups[decoded[0]].append((item, decoded[1]))
        encoding: list[Future[None]] = []
        for fitted, group in groups.items():
            for start in range(0, len(group), fitted.batch[1]):
                for item in self._segment(group[start : start + fitted.batch[1]], fitted):
                    if helped:  # beside the next forward pass
                        encoding.append(self._pool.submit(self._encode, item))
                    else:
                        self._encode(item)
        for future in encoding:
            future.result()
        return asked, items

    def _parsed(self, request: Request) -> Asked:
        try:
            return parse_request(request, self._manifest, self._limits)
        except Exception:  # noqa: BLE001  a request that breaks us must not cost the others their answers
            _log.exception("request %s", request.request_id)
            return Asked(request, results=[None])

    def _decode(self, item: _Item) -> tuple[Fitted, Image] | None:
        """How a picture comes to the artifact, and its pixels; None where its answer is known."""
        if item.late():
            return None
        started = time.perf_counter()
        try:
            image = decode_image(
                item.asked.pictures[item.index].body, item.asked.called(item.index), max_pixels=self._limits.pixels
            )
            fitted = fit_picture(image.shape[0], image.shape[1], self._manifest)
        except InputError as error:
            item.settle(refused(422, error))
            return None
        except Exception as error:  # noqa: BLE001  a decoder can raise anything, and must not cost the other requests their answers
            item.settle(_failure(item, error))
            return None
        item.milliseconds["decode"] = 1e3 * (time.perf_counter() - started)
        return fitted, image

    def _segment(self, group: Sequence[tuple[_Item, Image]], fitted: Fitted) -> list[_Item]:
        """Those of a group that have labels now; the others are answered."""
        group = [(item, image) for item, image in group if not item.late()]
        if not group:
            return []
        wanted = [item.asked.wanted for item, _ in group]
        watched = Watched(self._session, keep_logits=any(one.confidence for one in wanted))
        started = time.perf_counter()
        try:
            labels = predict_batch(watched, [image for _, image in group], at_network=[one.at_network for one in wanted])
            sure = watched.confidences(len(group), fitted) if any(one.confidence for one in wanted) else None
        except Exception as error:  # noqa: BLE001  whatever the runtime raises, the other requests still get their answers
            if len(group) > 1:  # memory that was lacking for all may do for one; and what one brought, the others did not
                _log.warning("%d pictures together: %s; they are run one by one", len(group), error)
                return [item for one in group for item in self._segment([one], fitted)]
            group[0][0].settle(refused(422, error) if isinstance(error, InputError) else _failure(group[0][0], error))
            return []
        total = time.perf_counter() - started
        for index, (item, image) in enumerate(group):
            item.milliseconds["forward"] = 1e3 * watched.seconds
            item.milliseconds["labels"] = 1e3 * (total - watched.seconds)
            confidence = sure[index] if sure and wanted[index].confidence else None
            item.found = Segmented(image, fitted, labels[index], confidence, len(group), item.milliseconds)
        return [item for item, _ in group]

    def _encode(self, item: _Item) -> None:
        assert item.found is not None
        try:
            item.settle(self._writer.write(item.found, item.asked.wanted))
        except Exception as error:  # noqa: BLE001  as above
            item.settle(_failure(item, error))

    def _report(self, answers: Sequence[Answer], items: Sequence[_Item]) -> None:
        for answer in answers:
            self._observer(REQUESTS, 1, {"status": str(answer.status)})
        for item in items:
            result = item.asked.results[item.index]
            if item.found is None or result is None or result.status != 200:
                continue
            for stage, value in item.milliseconds.items():
                self._observer(STAGE, value / 1e3, {"stage": stage})
            for name, share in self._drift.add(result.shares).items():
                self._observer(PIXEL_SHARE, share, {"class": name})
            if item.found.confidence is not None:
                self._observer(CONFIDENCE, item.found.confidence.mean, {})


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


def _failure(item: _Item, error: BaseException) -> Result:
    """For an exception that is no word to the caller: it goes to the log."""
    _log.error("%s", item, exc_info=error)
    if ran_out_of_memory(error):
        return failed(507, expected="memory for the picture", got="less than it takes, alone too", fix="scale the picture down")
    return _broken(item.asked.request.request_id)


def _broken(request_id: str) -> Result:
    fix = f"the server's log says why, at request {request_id}" if request_id else "the server's log says why"
    return failed(500, expected="an answer", got="a failure inside the server", fix=fix)
