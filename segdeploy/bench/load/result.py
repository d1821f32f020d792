"""What a load test finds, with its raw values: the source of which tables, plots and Markdown are views."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Literal

from segdeploy.base.errors import InputError
from segdeploy.base.records import Struct, decode_record

SCHEMA = 1


class Pictures(Struct, frozen=True):
    """What was sent.

    Attributes:
        source: the folder, or how they were made.
        count: how many different ones, sent in random order.
        mean_bytes: of the encoded files.
        sha256: of their names and contents, in order.
    """

    source: str
    count: int
    mean_bytes: int
    sha256: str


class Overhead(Struct, frozen=True):
    """What the client costs by itself: the same pictures, sent to a server that reads them and answers at once.

    Attributes:
        ms: each answer's latency, one client.
        per_s: requests a second by eight clients: no rate near it can be measured from here.
    """

    ms: tuple[float, ...]
    per_s: float


class Trial(Struct, frozen=True):
    """One load, for some time.

    Attributes:
        mode: ``open`` sends at times that no answer can put off; ``closed`` sends when the answer before has come.
        rate: asked for, requests a second; None of a closed loop.
        clients: of a closed loop; None of an open one.
        seed: of the arrival times and of the order of pictures.
        planned: how many requests there were to be; None where only time ended it.
        sent: how many there were.
        latency_ms: of those answered rightly, in the order of their times: from when a request was due to the answer's last
            byte; of a closed loop, from when it was sent.
        failed: kind -> how many; they have no latency, and count as later than any.
        lag_ms: how late this client was to each request by its own fault; empty for a closed loop.
        reconnected: connections that the server had closed, and that were opened again for the same request.
        most_at_once: requests due or sent, and unanswered.
        waited: requests for which no connection was free (``--connections``); the wait is in their latency.
        wall_s: from the first request due to the last answer.
        sending_s: from the first request due to the last one sent.
        client_cpu: share of one CPU that this process used.
        ended_early: it could no more keep the target, so nothing more was sent.
    """

    mode: Literal["open", "closed"]
    rate: float | None
    clients: int | None
    seed: int
    planned: int | None
    sent: int
    latency_ms: tuple[float, ...]
    failed: dict[str, int]
    lag_ms: tuple[float, ...]
    reconnected: int
    most_at_once: int
    waited: int
    wall_s: float
    sending_s: float
    client_cpu: float
    ended_early: bool = False

    @property
    def failures(self) -> int:
        """Requests without a right answer."""
        return sum(self.failed.values())

    @property
    def answered_per_s(self) -> float:
        """Right answers a second, of wall time."""
        return len(self.latency_ms) / self.wall_s if self.wall_s else math.nan


class Search(Struct, frozen=True):
    """The highest rate that keeps a target.

    Attributes:
        target_p99_ms: at most one request in a hundred may take longer, or fail.
        tried: in order; the rates that chose.
        confirmed: the rate that was found, measured again with requests that had no part in finding it; None where none held.
        rejected: rates that the search had chosen and that did not hold when measured again.
    """

    target_p99_ms: float
    tried: tuple[Trial, ...]
    confirmed: Trial | None
    rejected: tuple[Trial, ...]


class LoadReport(Struct, frozen=True):
    """One run of ``segdeploy load``.

    Attributes:
        schema: of this record.
        command: ready to be pasted.
        when: UTC, ISO 8601.
        target: a URL, or an artifact's folder.
        in_process: the model ran in the client's own process: no network, and one Python for both.
        timeout_s: after which a request has failed, counted from when it was due.
        seed: from which each trial's is drawn.
        pictures: what was sent.
        machine: name -> value: of the client's.
        overhead: of the client; None in-process.
        trials: the loads that were asked for.
        search: for the highest rate; None where no target was given.
        interrupted: it was ended before all was measured.
    """

    schema: int
    command: str
    when: str
    target: str
    in_process: bool
    timeout_s: float
    seed: int
    pictures: Pictures
    machine: dict[str, str]
    overhead: Overhead | None
    trials: tuple[Trial, ...]
    search: Search | None
    interrupted: bool = False


def read_load(path: Path) -> LoadReport:
    """Read what ``segdeploy load --json`` wrote.

    Raises:
        InputError: missing, of another schema, or not valid.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(expected=f"a load report at '{path}'", got=str(error), fix="check the path") from error
    return decode_record(
        data,
        LoadReport,
        schema=SCHEMA,
        what="load report",
        source=str(path),
        again="measure again with: segdeploy load --json FILE",
        error=InputError,
    )
