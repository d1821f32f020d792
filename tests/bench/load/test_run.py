"""Percentiles, the search, what a report says, and other people's programs on the same server."""

import re
import shutil
import subprocess

import msgspec
import numpy as np
import pytest

from segdeploy.base.errors import InputError
from segdeploy.bench.load.drive import Plan, closed_loop
from segdeploy.bench.load.http import Http
from segdeploy.bench.load.mlperf import run_mlperf
from segdeploy.bench.load.overhead import client_overhead
from segdeploy.bench.load.percentiles import independent, percentile
from segdeploy.bench.load.pictures import made_pictures
from segdeploy.bench.load.result import SCHEMA, LoadReport, Trial, read_load
from segdeploy.bench.load.run import Wanted, run_load
from segdeploy.bench.load.search import search
from segdeploy.bench.load.target import InProcess, Reply
from segdeploy.bench.load.text import client_was_late, markdown, sentences

PNG = Reply(200, "image/png", b"\x89PNG\r\n\x1a\n")


def trial(latency_ms=(), **changes):
    values = {
        "mode": "open", "rate": 10.0, "clients": None, "seed": 0, "planned": 100, "sent": 100, "failed": {}, "lag_ms": (),
        "reconnected": 0, "most_at_once": 1, "waited": 0, "wall_s": 10.0, "sending_s": 10.0, "client_cpu": 0.1,
    }  # fmt: skip
    return Trial(**values | {"latency_ms": tuple(latency_ms)} | changes)


def test_a_percentiles_interval_holds_it():
    """Over many samples of a distribution whose 99th percentile is known, the interval misses it about 5 times in 100."""
    random = np.random.default_rng(0)
    truth = -np.log(0.01)
    found = [percentile(random.exponential(size=1500), 0.99) for _ in range(400)]
    held = np.mean([one.low <= truth <= one.high for one in found])
    assert 0.92 <= held <= 0.99
    values = random.exponential(size=1500)
    assert percentile(values, 0.9).value == pytest.approx(np.percentile(values, 90))


def test_too_few_values_give_no_percentile():
    """None where even the largest value bounds it from above less surely than 97.5 %: 1 - 0.99^n."""
    random = np.random.default_rng(1)
    assert percentile(random.normal(size=300), 0.99) is None
    assert percentile(random.normal(size=1000), 0.99) is not None
    assert percentile([1.0, 2.0, 1.5, 3.0, 2.2], 0.5) is None
    assert percentile([], 0.5) is None


def test_a_queues_neighbours_are_not_independent():
    """An autoregressive series of coefficient 0.9 is worth (1 - 0.9) / (1 + 0.9) of its count."""
    random = np.random.default_rng(2)
    values = [0.0]
    for noise in random.normal(size=20_000):
        values.append(0.9 * values[-1] + noise)
    assert independent(values) / len(values) == pytest.approx(0.1 / 1.9, rel=0.3)
    assert independent(random.normal(size=5000)) > 4000
    assert percentile(values[:600], 0.99) is None


class Server:
    """Of a known limit: below it all requests are quick, above it all are late."""

    def __init__(self, limit, luck=()):
        self.limit, self.rates, self.luck = limit, [], set(luck)

    def measure(self, rate):
        self.rates.append(rate)
        good = rate <= self.limit or len(self.rates) in self.luck
        return trial([10.0 if good else 900.0] * 100, rate=rate)


@pytest.mark.parametrize("start", [1.0, 37.0, 400.0])
def test_the_search_finds_a_known_limit(start):
    """From below, near and above; within the tenth that it promises, and what it found was measured once more."""
    server = Server(50.0)
    kept = []
    found = search(server.measure, start, 100.0, 10_000, kept.append)
    assert 50 / 1.1 <= found.confirmed.rate <= 50
    assert server.rates[-1] == found.confirmed.rate
    assert found.confirmed not in found.tried[:0]
    assert len(kept) >= len(found.tried)
    assert len(server.rates) == len(found.tried) + 1


def test_luck_does_not_stand():
    """A rate that held once by luck does not when it is measured again; the search goes down from it."""
    server = Server(50.0, luck={7})
    found = search(server.measure, 10.0, 100.0, 10_000, lambda _: None)
    assert found.rejected
    assert found.rejected[0].rate > 50
    assert found.confirmed is None or found.confirmed.rate <= 50


def test_no_rate_and_the_highest():
    """A target that nothing keeps is said; and no rate beyond the one allowed is tried."""
    server = Server(0.0)
    assert search(server.measure, 10.0, 100.0, 1e4, lambda _: None).confirmed is None
    assert len(server.rates) < 10
    server = Server(1e9)
    assert search(server.measure, 10.0, 100.0, 300, lambda _: None).confirmed.rate == 300
    assert max(server.rates) == 300


def test_failures_count_as_late():
    """Quick answers beside two failures in a hundred keep no 99th percentile."""
    found = search(lambda rate: trial([1.0] * 98, failed={"timeout": 2}, rate=rate), 8.0, 100.0, 1e4, lambda _: None)
    assert found.confirmed is None


def test_a_whole_run_and_back(slow, tmp_path):
    """The rate that keeps p99 on a real clock: one worker of 5 ms cannot do more than 200 a second."""
    files, pictures = made_pictures(24, 32, 0)
    target = Http(slow(0.005).url, {})
    wanted = Wanted(clients=(2,), target_p99_ms=50.0)
    report = run_load(target, target.url, files, pictures, wanted=wanted, plan=Plan(100, None, seed=4))
    assert report.search.confirmed.rate < 200
    assert any(one.ended_early for one in report.search.tried)
    seeds = [one.seed for one in (*report.trials, *report.search.tried, report.search.confirmed)]
    assert len(set(seeds)) == len(seeds)
    path = tmp_path / "load.json"
    path.write_bytes(msgspec.json.encode(report))
    assert read_load(path) == report
    text = markdown(report)
    assert "keep p99 within 50 ms" in text
    assert "closed loop sends less" in text
    assert report.command in text


def test_a_late_client_is_said():
    """Late by its own fault, or short of the rate; and not where it was neither."""
    assert client_was_late(trial([20.0] * 100, lag_ms=(0.5,) * 100)) is None
    assert "one request in a hundred" in client_was_late(trial([20.0] * 100, lag_ms=(0.5,) * 90 + (50.0,) * 10))
    assert "5.0 a second, not 10.0" in client_was_late(trial([20.0] * 100, lag_ms=(0.5,) * 100, sending_s=20.0))


def test_other_schemas_are_refused(tmp_path):
    """A report of another schema, and one cut short, are one line."""
    path = tmp_path / "x.json"
    path.write_text(f'{{"schema": {SCHEMA + 1}}}')
    with pytest.raises(InputError, match=f"schema {SCHEMA + 1}"):
        read_load(path)
    path.write_text('{"schema": 1, "comm')
    with pytest.raises(InputError, match="valid load report"):
        read_load(path)


def test_the_clients_own_cost_is_measured():
    """The null server answers every request, and is gone afterwards."""
    found = client_overhead(made_pictures(24, 32, 0)[0])
    assert len(found.ms) == 200
    assert min(found.ms) > 0
    assert found.per_s > 100


def test_interrupted(slow, monkeypatch):
    """Ctrl-C keeps what was measured, and says so."""
    from segdeploy.bench.load import run

    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(run, "open_loop", interrupt)
    monkeypatch.setattr(run, "client_overhead", lambda _: None)
    files, pictures = made_pictures(24, 32, 0)
    target = Http(slow().url, {})
    report = run_load(target, target.url, files, pictures, wanted=Wanted((5.0,), (1,)), plan=Plan(10, None))
    assert isinstance(report, LoadReport)
    assert report.interrupted
    assert len(report.trials) == 1
    assert any("Interrupted" in text for text in sentences(report))


def test_apache_bench_agrees(slow, tmp_path):
    """ab (Debian's apache2-utils), as a closed loop of four on the same server, sees the latencies and the rate that we see."""
    if shutil.which("ab") is None:
        pytest.skip("ab is not installed (apt-get install apache2-utils)")
    server = slow(0.02)
    (tmp_path / "body").write_bytes(b"x" * 1000)
    command = ["ab", "-k", "-c", "4", "-n", "100", "-p", str(tmp_path / "body"), "-T", "image/jpeg", server.url]
    said = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    theirs = {int(a): float(b) for a, b in re.findall(r"^\s+(\d+)%\s+(\d+)", said, re.MULTILINE)}
    per_s = float(re.search(r"Requests per second:\s+([\d.]+)", said)[1])
    assert "Failed requests:        0" in said
    ours = closed_loop(Http(server.url, {}), [b"x" * 1000], 4, Plan(100, None))
    assert np.median(ours.latency_ms) == pytest.approx(theirs[50], rel=0.15)
    assert ours.answered_per_s == pytest.approx(per_s, rel=0.15)
    assert np.median(ours.latency_ms) >= 79  # one worker: each waits for the three before it


@pytest.mark.parametrize("scenario", ["SingleStream", "Offline"])
def test_mlperf_loadgen(scenario, tmp_path):
    """LoadGen's own percentiles and logs of an answer of known delay, beside ours of the same."""
    pytest.importorskip("mlperf_loadgen", reason="mlcommons-loadgen is not installed")
    import time

    asked = []

    def answer(pictures):
        asked.append(len(pictures))
        time.sleep(0.005)
        return [PNG] * len(pictures)

    found = run_mlperf(scenario, answer, [b"a", b"b"], tmp_path / "logs", seconds=0.3, requests=20, batch=4)
    assert (tmp_path / "logs" / "mlperf_log_detail.txt").stat().st_size
    assert found.failed == {}
    assert found.figures["Scenario"] == scenario
    assert sum(asked) >= 20
    if scenario == "SingleStream":
        theirs = float(found.figures["50.00 percentile latency (ns)"]) / 1e6
        ours = closed_loop(InProcess(lambda picture: answer([picture])[0]), [b"a"], 1, Plan(40, None))
        assert theirs >= 5
        assert np.median(ours.latency_ms) == pytest.approx(theirs, rel=0.3)
    else:
        assert max(asked) == 4
        assert float(found.figures["Samples per second"]) <= 4 / 0.005


def test_mlperf_counts_bad_answers(tmp_path):
    """LoadGen knows only that an answer came; what it was is counted beside it."""
    pytest.importorskip("mlperf_loadgen", reason="mlcommons-loadgen is not installed")
    bad = Reply(422, "application/json", b"{}")
    found = run_mlperf("SingleStream", lambda p: [bad] * len(p), [b"a"], tmp_path, seconds=0.05, requests=10)
    assert found.failed["status 422"] >= 10
