"""The Ray Serve application: ``segdeploy.serve.ray_app:build`` in a Serve config. Each replica has the model and its HTTP.

There is no ingress of its own: a replica that is told to end finishes what it has, and nothing is on the way between two.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec

from segdeploy.base.errors import ArtifactError
from segdeploy.base.files import remove_left
from segdeploy.base.machine import usable_cpus
from segdeploy.serve import environment
from segdeploy.serve.api import Api
from segdeploy.serve.metrics import METRICS, Metric, Observer
from segdeploy.serve.predictor import open_predictor
from segdeploy.serve.request import Answer, Request

HEALTH_PERIOD_S = 10.0
_COPY = "segdeploy-artifact-"
_DRAIN_S = 60.0
# Upper ends in seconds of a stage: of what takes less than a millisecond on a GPU, and seconds on a CPU.
_BUCKETS_S = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0]


class RaySettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The arguments of the application, as they stand in a Serve config.

    Attributes:
        artifact: its folder on every node, or an address that pyarrow opens (s3://, gs://, file://).
        name: of the model, as it stands in the URLs.
        min_replicas: at least so many.
        max_replicas: at most; more than ``min_replicas`` scales by the load.
        cpus: of a replica, which it computes with so many threads on.
        gpus: of a replica: 0, or 1.
        batch_size: requests that are run together at most.
        batch_delay_ms: how long one waits for others; 0 takes those that are there.
        max_queued: requests that wait at a replica; more are told 503.
        token_sha256: in hexadecimal, of the token that must come with every request; None for none.
        max_pixels: of a picture; None for what ``decode_image`` allows by default.
    """

    artifact: str
    name: str
    min_replicas: int = 1
    max_replicas: int = 1
    cpus: int = 1
    gpus: int = 0
    batch_size: int = 8
    batch_delay_ms: float = 0.0
    max_queued: int = 100
    token_sha256: str | None = None
    max_pixels: int | None = None


class Replica:
    """One process with the model."""

    def __init__(self, settings: dict[str, Any]) -> None:
        """Open and warm up; a replica takes requests when this is done."""
        from ray import serve

        self._settings = msgspec.convert(settings, RaySettings)
        os.environ[environment.WORKERS] = str(max(1, usable_cpus() // self._settings.cpus))
        if self._settings.max_pixels is not None:
            os.environ[environment.MAX_PIXELS] = str(self._settings.max_pixels)
        with contextlib.ExitStack() as stack:
            folder = stack.enter_context(fetched(self._settings.artifact))
            self._predictor = open_predictor(folder, 0 if self._settings.gpus else None, _observer(self._settings.name))
            self._predictor.warm_up(self._settings.batch_size)
            self._held = stack.pop_all()
        self._thread = ThreadPoolExecutor(1, "segdeploy-model")  # one: a health check waits for the batch before it
        self._api = Api(self._settings.name, self._predictor.manifest, self._ask, self._settings.token_sha256)
        self._waiting, self._proven = 0, time.monotonic()
        self._sizes: Counter[int] = Counter()

        async def answer(requests: list[Request]) -> list[Answer]:
            return await asyncio.get_running_loop().run_in_executor(self._thread, self._run, requests)

        delay_s = self._settings.batch_delay_ms / 1e3
        self._batched = serve.batch(max_batch_size=self._settings.batch_size, batch_wait_timeout_s=delay_s)(answer)

    def __del__(self) -> None:
        """Serve calls this when a replica ends: a fetched copy of the artifact goes with it."""
        held = getattr(self, "_held", None)
        if held is not None:
            held.close()

    async def __call__(self, request: Any) -> Any:
        """Answer a request of HTTP."""
        from starlette.responses import Response

        headers = {name.lower(): value for name, value in request.headers.items()}
        query = dict(request.query_params)
        found = await self._api.answer(request.method, request.url.path, headers, query, request.stream())
        return Response(found.body, found.status, {**found.headers, "Content-Type": found.content_type})

    async def check_health(self) -> None:
        """Run the model, unless it has just answered: Serve replaces a replica for which this fails."""
        if time.monotonic() - self._proven > HEALTH_PERIOD_S / 2:
            await asyncio.get_running_loop().run_in_executor(self._thread, self._predictor.health)
            self._proven = time.monotonic()

    async def _ask(self, requests: Sequence[Request]) -> list[Answer] | None:
        room = self._settings.max_queued + self._settings.batch_size
        if self._waiting + len(requests) > max(room, len(requests)):
            return None
        self._waiting += len(requests)
        try:
            return list(await asyncio.gather(*(self._batched(one) for one in requests)))
        finally:
            self._waiting -= len(requests)

    def batch_sizes(self) -> dict[int, int]:
        """How many batches of which size were run, for who asks through a handle."""
        return dict(self._sizes)

    def _run(self, requests: list[Request]) -> list[Answer]:
        self._sizes[len(requests)] += 1
        answers = self._predictor.answer(requests)
        if any(one.status == 200 for one in answers):
            self._proven = time.monotonic()
        return answers


def build(args: dict[str, Any]) -> Any:
    """The application of these arguments; see ``RaySettings``."""
    from ray import serve

    settings = msgspec.convert(args, RaySettings)
    scaled: dict[str, Any] = {"num_replicas": settings.min_replicas}
    if settings.max_replicas > settings.min_replicas:
        bounds = {"min_replicas": settings.min_replicas, "max_replicas": settings.max_replicas}
        scaled = {"autoscaling_config": {**bounds, "target_ongoing_requests": 2 * settings.batch_size}}
    # A replica answers at once when its own queue is full, with when to come again; Serve's queue before it stays short.
    ongoing = 2 * (settings.max_queued + settings.batch_size)
    deployment = serve.deployment(
        name="model",
        ray_actor_options={"num_cpus": settings.cpus, "num_gpus": settings.gpus},
        max_ongoing_requests=ongoing,
        max_queued_requests=max(1, settings.max_queued),
        health_check_period_s=HEALTH_PERIOD_S,
        health_check_timeout_s=60,
        graceful_shutdown_wait_loop_s=0.5,
        graceful_shutdown_timeout_s=_DRAIN_S,
        **scaled,
    )(Replica)
    return deployment.bind(msgspec.to_builtins(settings))


@contextlib.contextmanager
def fetched(artifact: str) -> Iterator[Path]:
    """The artifact's folder here: itself, or a copy of what lies in a bucket, for as long as the block runs.

    Its hashes are checked when it is opened. A copy that a process left which was killed is removed too.

    Raises:
        ArtifactError: it cannot be fetched.
    """
    if "://" not in artifact:
        yield Path(artifact)
        return
    from pyarrow import ArrowException, fs

    for left in Path(tempfile.gettempdir()).glob(f"{_COPY}*"):
        remove_left(left, os.O_RDONLY, lambda path: shutil.rmtree(path, ignore_errors=True))
    folder, handle = _locked_copy()
    try:
        try:
            fs.copy_files(artifact, str(folder))
        except (OSError, ArrowException, ValueError) as error:
            fix = "check the address, and who may read it"
            raise ArtifactError(expected=f"an artifact's folder at '{artifact}'", got=str(error), fix=fix) from error
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(handle)


def _locked_copy() -> tuple[Path, int]:
    """A new folder, with a lock that says that this process lives."""
    while True:
        folder = Path(tempfile.mkdtemp(prefix=_COPY))
        handle = os.open(folder, os.O_RDONLY)
        with contextlib.suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_EX)
        if folder.exists():  # between its making and its lock another may have taken it for a left one
            return folder, handle
        os.close(handle)


def _observer(model: str) -> Observer:
    """Passes on what is measured to Ray's metrics."""
    from ray.util import metrics

    families: dict[str, Any] = {}
    for one in METRICS:
        told = {"description": one.help, "tag_keys": ("model", *one.labels)}
        kind = {"counter": metrics.Counter, "gauge": metrics.Gauge, "histogram": metrics.Histogram}[one.kind]
        further = {"boundaries": _BUCKETS_S} if one.kind == "histogram" else {}
        families[one.name] = kind(one.name, **told, **further)

    def observe(metric: Metric, value: float, labels: Any) -> None:
        tell = {"counter": "inc", "gauge": "set", "histogram": "observe"}[metric.kind]
        getattr(families[metric.name], tell)(value, tags={"model": model, **labels})

    return observe
