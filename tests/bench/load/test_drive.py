"""The clock of a load test, against servers whose delay is known."""

import time

import numpy as np
import pytest

from segdeploy.bench.load.drive import Plan, arrivals, closed_loop, fresh_seed, open_loop
from segdeploy.bench.load.http import Http
from segdeploy.bench.load.target import InProcess, Reply

PNG = Reply(200, "image/png", b"\x89PNG\r\n\x1a\n")


def test_arrivals_are_a_poisson_process():
    """Gaps have the mean and the spread of an exponential distribution, and do not depend on one another."""
    times = np.array(arrivals(50.0, Plan(20_000, None, seed=3)))
    gaps = np.diff(times, prepend=0)
    assert gaps.mean() == pytest.approx(1 / 50, rel=0.03)
    assert gaps.std() == pytest.approx(1 / 50, rel=0.05)
    assert abs(np.corrcoef(gaps[:-1], gaps[1:])[0, 1]) < 0.03
    counts = np.bincount(times.astype(int))[:-1]  # of each second: the variance of a Poisson count is its mean
    assert counts.var() == pytest.approx(counts.mean(), rel=0.25)


def test_arrivals_are_their_seeds():
    """The same seed gives the same times, another others; time and count both bound them."""
    assert arrivals(10, Plan(50, None, seed=1)) == arrivals(10, Plan(50, None, seed=1))
    assert arrivals(10, Plan(50, None, seed=1)) != arrivals(10, Plan(50, None, seed=2))
    assert max(arrivals(10, Plan(None, 3.0))) < 3
    assert len(arrivals(10, Plan(5, 300.0))) == 5
    assert len({fresh_seed(7, number) for number in range(100)}) == 100


def test_a_stall_shows_in_an_open_loop_and_hides_in_a_closed_one(slow):
    """The server stands still for 1 s once. Of 100 arrivals a second a hundred meet that; one client meets it once."""
    server = slow(stall=(50, 1.0))
    opened = open_loop(Http(server.url, {}), [b"x"], 100.0, Plan(300, None, warmup=0))
    # In the second that it stood still some 100 were due; whoever came in its first half waited more than half of it.
    late = sum(ms > 500 for ms in opened.latency_ms)
    assert 25 < late < 90
    assert np.quantile(opened.latency_ms, 0.99) > 900

    closed = closed_loop(Http(slow(stall=(50, 1.0)).url, {}), [b"x"], 1, Plan(300, None, warmup=0))
    assert sum(ms > 500 for ms in closed.latency_ms) == 1
    assert np.quantile(closed.latency_ms, 0.99) < 500
    assert not opened.failed
    assert not closed.failed


def test_latency_is_at_least_the_servers(slow):
    """No answer is faster than the server, and one client's rate is what its delay allows."""
    trial = closed_loop(Http(slow(0.02).url, {}), [b"x"], 1, Plan(20, None))
    assert min(trial.latency_ms) >= 20
    assert trial.answered_per_s <= 50
    assert trial.sent == 20
    assert trial.wall_s >= 0.4


def test_a_queue_that_grows_is_in_the_latencies(slow):
    """Twice the rate that the server can do: request n waits for those before it, whose times are known."""
    delay = 0.01
    plan = Plan(80, None, warmup=0, seed=5)
    trial = open_loop(Http(slow(delay).url, {}), [b"x"], 200.0, plan)
    free, least = 0.0, []
    for due in arrivals(200.0, plan):  # one worker, first come first served: Lindley's recursion
        free = max(free, due) + delay
        least.append(1e3 * (free - due))
    assert all(got >= want - 1 for got, want in zip(trial.latency_ms, least, strict=True))
    assert trial.latency_ms[-1] > 200
    assert trial.most_at_once > 20


def test_clients_are_at_once(slow):
    """Four clients of a server with four workers have four requests on their way, and never more."""
    server = slow(0.02, workers=4)
    trial = closed_loop(Http(server.url, {}), [b"x"], 4, Plan(40, None, warmup=0))
    assert trial.most_at_once == 4
    assert server.connections == 4
    assert trial.wall_s < 40 * 0.02


def test_time_ends_it(slow):
    """Seconds bound a closed loop as they bound an open one."""
    trial = closed_loop(Http(slow(0.02).url, {}), [b"x"], 1, Plan(None, 0.3, warmup=0))
    assert 3 <= trial.sent <= 15
    assert trial.planned is None


def test_a_timeout_is_counted_from_when_the_request_was_due(slow):
    """The server stands still for long: everything that was due fails by its own time, and the run ends."""
    begun = time.monotonic()
    trial = open_loop(Http(slow(stall=(0, 60.0)).url, {}), [b"x"], 100.0, Plan(20, None, timeout_s=0.3, warmup=0))
    assert trial.failed == {"timeout": 20}
    assert trial.latency_ms == ()
    assert time.monotonic() - begun < 30


def test_it_gives_up_when_the_target_is_lost(slow):
    """More than one in a hundred late: no further request is sent, and the trial says so."""
    server = slow(0.05)
    trial = open_loop(Http(server.url, {}), [b"x"], 100.0, Plan(300, None, target_ms=20, warmup=0))
    assert trial.ended_early
    assert server.asked < 150


def test_a_late_client_is_told():
    """A model in this process that holds the interpreter makes the client late, which is measured."""

    def hog(_):
        end = time.perf_counter() + 0.03
        while time.perf_counter() < end:
            sum(range(1000))
        return PNG

    free = open_loop(InProcess(lambda _: PNG), [b"x"], 50.0, Plan(30, None))
    assert len(free.lag_ms) == 30
    assert min(free.lag_ms) > -1
    busy = open_loop(InProcess(hog), [b"x"], 50.0, Plan(30, None))
    assert np.median(busy.lag_ms) > np.median(free.lag_ms)


def test_every_picture_is_sent(slow):
    """Pictures go out whole, in another order for another seed."""
    server = slow()
    files = [bytes([index]) * (1000 + index) for index in range(5)]
    closed_loop(Http(server.url, {}), files, 1, Plan(60, None, warmup=0, seed=1))
    first = server.bodies[:]
    assert set(first) == set(files)
    server.bodies.clear()
    closed_loop(Http(server.url, {}), files, 1, Plan(60, None, warmup=0, seed=2))
    assert server.bodies != first
