from segdeploy.bench.latency import interleave
from segdeploy.bench.process import NotRun
from segdeploy.bench.protocol import Timed
from segdeploy.bench.result import BenchSettings


class FakeWorker:
    """Writes its name down when it has a turn; fails at a given turn."""

    def __init__(self, name, order, call_ms=1.0, fails_at=None):
        self._name, self._order, self._call_ms, self._fails_at = name, order, call_ms, fails_at
        self._turns = 0

    def turn(self, calls):
        self._order.append((self._name, calls))
        self._turns += 1
        if self._turns == self._fails_at:
            raise NotRun("it broke")
        return Timed((self._call_ms,) * calls, (self._call_ms / 2,) * calls, (9.0,), (), 1000 + self._turns)


def silent(steps=1, note=""):
    pass


def settings(**changes):
    return BenchSettings(**{"iterations": 12, "turn": 5, "min_time_s": 0, "max_time_s": 60} | changes)


def test_backends_take_turns_in_every_round():
    """The order is A B C A B C, and the last round is cut to exactly the values that were asked for."""
    order = []
    series = interleave([FakeWorker(name, order) for name in "ABC"], settings(), silent)
    assert order == [(name, calls) for calls in (5, 5, 2) for name in "ABC"]
    assert [len(one.run_ms) for one in series] == [12, 12, 12]
    assert [len(one.execute_ms) for one in series] == [12, 12, 12]


def test_settling_calls_are_kept_apart():
    """The calls at the head of a turn are recorded, and are not among the measured ones."""
    (series,) = interleave([FakeWorker("A", [])], settings(), silent)
    assert series.warmup_run_ms == [9.0] * 3
    assert 9.0 not in series.run_ms
    assert series.peak_rss_bytes == 1003


def test_one_that_fails_takes_no_more_turns_and_the_others_go_on():
    """A failure costs one backend its row, not the others their values."""
    order = []
    workers = [FakeWorker("A", order), FakeWorker("B", order, fails_at=2), FakeWorker("C", order)]
    series = interleave(workers, settings(), silent)
    assert [name for name, _ in order] == list("ABCABCAC")
    assert [one.failure for one in series] == [None, "it broke", None]
    assert [len(one.run_ms) for one in series if one.failure is None] == [12, 12]


def test_all_failing_ends_the_run():
    """With nobody left to time there is no further round."""
    order = []
    series = interleave([FakeWorker("A", order, fails_at=1)], settings(), silent)
    assert order == [("A", 5)]
    assert series[0].failure == "it broke"


def test_the_shortest_time_is_held_by_every_backend():
    """Rounds go on beyond the iterations until the fastest one was timed for long enough."""
    slow, fast = interleave([FakeWorker("A", [], 10.0), FakeWorker("B", [], 1.0)], settings(min_time_s=0.06), silent)
    assert sum(fast.run_ms) + sum(fast.execute_ms) >= 60
    assert len(fast.run_ms) == len(slow.run_ms)


def test_the_longest_time_ends_the_run_after_a_whole_round():
    """Every backend has its turn in the round that was begun."""
    order = []
    interleave([FakeWorker(name, order) for name in "AB"], settings(max_time_s=0), silent)
    assert [name for name, _ in order] == ["A", "B"]


def test_progress_counts_iterations():
    """The bar is told of as many calls as each backend made."""
    steps = []
    interleave([FakeWorker("A", [])], settings(), lambda count=1, note="": steps.append(count))
    assert sum(steps) == 12
