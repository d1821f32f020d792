"""The bodies of answers: masks, overlays, JSON, and errors.

Axes: H, W of labels.
"""

from __future__ import annotations

import base64
import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

import msgspec
import numpy as np

from segdeploy.artifact.manifest import Manifest
from segdeploy.base.errors import InputError
from segdeploy.images.arrays import Image, Labels
from segdeploy.images.drawing import class_shares, overlay
from segdeploy.images.label_png import encode_png, label_png
from segdeploy.images.resize import resize_picture
from segdeploy.images.rle import encode_rle
from segdeploy.runtime.fitting import Fitted
from segdeploy.runtime.watched import Confidence
from segdeploy.serve.options import JSON, PNG, Wanted
from segdeploy.serve.request import REQUEST_ID, Answer

VOID = 255
_MULTI_STATUS = 207


@dataclass
class Segmented:
    """A picture and what was found in it.

    Attributes:
        image: uint8 [H, W, 3] RGB.
        fitted: how it came to the artifact.
        labels: at the size that was asked for.
        confidence: where it was asked for.
        batch: so many pictures went through the network with it.
        milliseconds: stage -> time; of the forward pass, the whole batch's.
    """

    image: Image
    fitted: Fitted
    labels: Labels
    confidence: Confidence | None = None
    batch: int = 1
    milliseconds: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Result:
    """Of one picture.

    Attributes:
        status: of HTTP.
        told: what JSON says of it.
        png: the picture that was asked for; None where JSON is all.
        shares: class -> share of the pixels; empty for an error.
    """

    status: int
    told: dict[str, Any]
    png: bytes | None = None
    shares: dict[int, float] = field(default_factory=dict)


class Writer:
    """Writes the answers of one artifact."""

    def __init__(self, manifest: Manifest) -> None:
        self._manifest = manifest
        verdict = manifest.verdict()
        self._artifact = {
            "name": manifest.name,
            "format": manifest.label,
            "classes": manifest.classes,
            "palette": manifest.palette,
            "files": {entry.path: entry.sha256 for entry in manifest.files},
            "verdict": None
            if verdict is None
            else {"verdict": verdict.verdict, "sha256": hashlib.sha256(msgspec.json.encode(verdict)).hexdigest()},
        }

    def write(self, found: Segmented, wanted: Wanted) -> Result:
        """Encode one picture's answer, and note how long that took.

        Args:
            found: in it.
            wanted: by the request.
        """
        started = time.perf_counter()
        shares = class_shares(found.labels, len(self._manifest.classes))
        told, png = {}, None
        if wanted.kind == "json":
            told = self._told(found, wanted, shares)
        elif wanted.kind == "mask":
            png = label_png(self._chosen(found.labels, wanted), self._manifest.palette, fast=True)
        else:
            image = resize_picture(found.image, found.fitted.resize) if wanted.at_network else found.image
            png = encode_png(overlay(image, self._chosen(found.labels, wanted), self._manifest.palette))
        found.milliseconds["encode"] = 1e3 * (time.perf_counter() - started)
        if wanted.kind == "json":
            told["milliseconds"] = {stage: round(value, 3) for stage, value in found.milliseconds.items()}
        return Result(200, told, png, shares)

    def _chosen(self, labels: Labels, wanted: Wanted) -> Labels:
        """The labels that are wanted, and void for the others."""
        if wanted.classes is None:
            return labels
        void = max(VOID, len(self._manifest.classes))
        return np.where(np.isin(labels, wanted.classes), labels, labels.dtype.type(void))

    def _told(self, found: Segmented, wanted: Wanted, shares: dict[int, float]) -> dict[str, Any]:
        names = self._manifest.classes
        chosen = sorted(shares) if wanted.classes is None else wanted.classes
        counts = encode_rle(found.labels, chosen)
        size = list(found.labels.shape)
        classes: list[dict[str, Any]] = [
            {
                "label": label,
                "name": names[label],
                "share": shares.get(label, 0.0),
                "rle": {"size": size, "counts": counts[label]},
            }
            for label in chosen
        ]
        told = {
            "artifact": self._artifact,
            "size": {"picture": list(found.image.shape[:2]), "network": list(found.fitted.size), "labels": size},
            "classes": classes,
            "batch": found.batch,
        }
        if found.confidence is not None:
            told["confidence"] = found.confidence.mean
            for one in classes:
                one["confidence"] = found.confidence.classes.get(one["label"])
        return told


def refused(status: int, error: InputError) -> Result:
    """An error of the caller's."""
    return Result(status, {"expected": error.expected, "got": error.got, "fix": error.fix})


def failed(status: int, *, expected: str, got: str, fix: str) -> Result:
    """An error that is not the caller's."""
    return Result(status, {"expected": expected, "got": got, "fix": fix})


def answer_of(results: Sequence[Result], names: Sequence[str], request_id: str) -> Answer:
    """The answer to a request: of one picture what was asked for; of several a list in JSON, each with its own status.

    Args:
        results: of its pictures; or one error.
        names: of the pictures, as the form has them.
        request_id: comes back.
    """
    about = {"request_id": request_id} if request_id else {}
    if len(results) == 1:
        (only,) = results
        if only.png is not None:
            return _answer(200, only.png, PNG, request_id)
        return _answer(only.status, msgspec.json.encode({"status": only.status, **about, **only.told}), JSON, request_id)
    pictures = []
    for result, name in zip(results, names, strict=True):
        drawn = {"content_type": PNG, "base64": base64.b64encode(result.png).decode()} if result.png is not None else {}
        pictures.append({"name": name, "status": result.status, **result.told, **drawn})
    statuses = {result.status for result in results}
    status = statuses.pop() if len(statuses) == 1 else _MULTI_STATUS
    return _answer(status, msgspec.json.encode({"status": status, **about, "pictures": pictures}), JSON, request_id)


def _answer(status: int, body: bytes, content_type: str, request_id: str) -> Answer:
    phrase = "" if status == 200 else HTTPStatus(status).phrase
    headers = {REQUEST_ID: request_id} if request_id else {}
    if status == 503:
        headers["Retry-After"] = "1"
    return Answer(status, body, content_type, phrase, headers)
