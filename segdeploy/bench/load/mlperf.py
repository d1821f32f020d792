"""A model in this process under MLPerf's own LoadGen: its scenarios, its clock, its verdict, its logs.

Not a submission: those have prescribed models, data and accuracy runs. It is a measurement by a harness that is not ours.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from threading import Thread
from typing import Any, Literal

from segdeploy.base.errors import InputError, MissingExtraError
from segdeploy.base.files import writable
from segdeploy.base.records import Struct
from segdeploy.bench.load.target import Reply, fault_of

Scenario = Literal["SingleStream", "Offline"]

_SUMMARY = "mlperf_log_summary.txt"
_PROBES = 5


class MlperfResult(Struct, frozen=True):
    """What LoadGen says.

    Attributes:
        scenario: of its own.
        valid: by its own rules on duration and count.
        figures: lines of its summary, name -> value, as it writes them.
        failed: kind -> answers that were not what was asked for; LoadGen knows only that they came.
        out: the folder of its logs.
    """

    scenario: Scenario
    valid: bool
    figures: dict[str, str]
    failed: dict[str, int]
    out: str


def run_mlperf(
    scenario: Scenario,
    answer: Callable[[Sequence[bytes]], Sequence[Reply]],
    pictures: Sequence[bytes],
    out: Path,
    *,
    seconds: float,
    requests: int,
    batch: int = 1,
) -> MlperfResult:
    """Run one scenario in performance mode.

    Args:
        scenario: SingleStream asks when the answer before has come; Offline hands all pictures over at once.
        answer: encoded pictures in, as many answers out.
        pictures: encoded; LoadGen's sample library.
        out: a folder for its logs.
        seconds: at least.
        requests: at least.
        batch: pictures at once, of Offline.

    Raises:
        MissingExtraError: LoadGen is not installed.
        InputError: the folder cannot be written.
    """
    try:
        import mlperf_loadgen as loadgen
    except ModuleNotFoundError as error:
        raise MissingExtraError(package="mlcommons-loadgen", extra="loadgen", purpose="MLPerf's load generator") from error
    with writable(out):
        out.mkdir(parents=True, exist_ok=True)
    failed: Counter[str] = Counter()
    size = batch if scenario == "Offline" else 1
    running: list[Thread] = []

    def work(samples: Sequence[tuple[int, int]]) -> None:
        for start in range(0, len(samples), size):
            part = samples[start : start + size]
            for reply in answer([pictures[index] for _, index in part]):
                if fault := fault_of(reply, "image"):
                    failed[fault] += 1
            loadgen.QuerySamplesComplete([loadgen.QuerySampleResponse(one, 0, 0) for one, _ in part])

    def issue(samples: Sequence[Any]) -> None:
        # Their memory is LoadGen's, and only until this returns.
        named = [(sample.id, sample.index) for sample in samples]
        if scenario == "SingleStream":
            work(named)
        else:  # it issues all at once, and measures until the last is complete
            running.append(Thread(target=work, args=(named,), name="segdeploy-mlperf"))
            running[-1].start()

    begun = time.perf_counter()
    for index in range(_PROBES):
        answer([pictures[index % len(pictures)]] * size)
    each_s = (time.perf_counter() - begun) / (_PROBES * size)

    settings, logs = loadgen.TestSettings(), loadgen.LogSettings()
    settings.scenario = getattr(loadgen.TestScenario, scenario)
    settings.mode = loadgen.TestMode.PerformanceOnly
    settings.min_duration_ms = round(1000 * seconds)
    settings.min_query_count = requests
    settings.single_stream_expected_latency_ns = max(1, round(1e9 * each_s))
    # Offline is one query: of so many pictures as this rate makes in the time, and a tenth more.
    settings.offline_expected_qps = max(1 / each_s, requests / seconds)
    logs.log_output.outdir = str(out)
    logs.enable_trace = False
    sut = loadgen.ConstructSUT(issue, lambda: None)
    library = loadgen.ConstructQSL(len(pictures), len(pictures), lambda _: None, lambda _: None)
    try:
        loadgen.StartTestWithLogSettings(sut, library, settings, logs)
    finally:
        for thread in running:
            thread.join()
        loadgen.DestroyQSL(library)
        loadgen.DestroySUT(sut)
    return _read(scenario, out, dict(failed))


def _read(scenario: Scenario, out: Path, failed: dict[str, int]) -> MlperfResult:
    try:
        text = (out / _SUMMARY).read_text()
    except OSError as error:
        raise InputError(expected=f"LoadGen's {_SUMMARY} in '{out}'", got=str(error.strerror), fix="check --out") from error
    pairs = (line.partition(":") for line in text.split("Test Parameters Used")[0].splitlines())
    figures = {name.strip(): value.strip() for name, colon, value in pairs if colon and value.strip()}
    return MlperfResult(
        scenario=scenario, valid=figures.get("Result is") == "VALID", figures=figures, failed=failed, out=str(out)
    )
