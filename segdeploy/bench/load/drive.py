"""Sending: at times that are drawn beforehand (open loop), or each client when it has its answer (closed loop)."""

from __future__ import annotations

import asyncio
import resource
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np

from segdeploy.bench.load.result import Trial
from segdeploy.bench.load.target import AnswerKind, Failed, Target, fault_of

# Sends the request of an index, due at a time of the loop's clock; due when it is called where None.
_Ask: TypeAlias = Callable[[int, "float | None"], Coroutine[Any, Any, None]]

LATE_SHARE = 0.01  # what a 99th percentile leaves beyond it


@dataclass(frozen=True)
class Plan:
    """How long, and what counts.

    Attributes:
        requests: at most; None for as many as the seconds bring.
        seconds: at most, in which requests are sent; None for as many as the requests take. One of the two is given.
        timeout_s: after which a request has failed, counted from when it was due.
        wanted: what an answer must be.
        seed: of arrival times and of the order of pictures.
        warmup: requests before the first that counts, one after another.
        target_ms: an open loop ends as soon as more than one in a hundred of all planned requests came later, or failed.
    """

    requests: int | None
    seconds: float | None
    timeout_s: float = 30.0
    wanted: AnswerKind = "image"
    seed: int = 0
    warmup: int = 5
    target_ms: float | None = None


@dataclass
class Tally:
    """What has come of a trial so far; times in seconds of the loop's clock."""

    planned: int | None
    answered: dict[int, float] = field(default_factory=dict)  # index -> ms
    failed: Counter[str] = field(default_factory=Counter)
    lag_ms: list[float] = field(default_factory=list)
    sent: int = 0
    at_once: int = 0
    most_at_once: int = 0
    last_sent: float = 0.0
    last_done: float = 0.0
    late: int = 0  # than the plan's target, or failed

    @property
    def hopeless(self) -> bool:
        """No answer that is still to come can bring the 99th percentile within the target."""
        return self.late > LATE_SHARE * (self.planned or 0)


def arrivals(rate: float, plan: Plan) -> list[float]:
    """When each request is due, in seconds from the start: a Poisson process, the same for the same seed."""
    count = plan.requests if plan.requests is not None else int(rate * (plan.seconds or 0) * 2) + 20
    times = np.cumsum(np.random.default_rng(plan.seed).exponential(1 / rate, count))
    if plan.seconds is not None:
        times = times[times < plan.seconds]
    return [float(one) for one in times]


def open_loop(target: Target, pictures: Sequence[bytes], rate: float, plan: Plan) -> Trial:
    """Send at a rate, whatever the answers do.

    Args:
        target: is asked.
        pictures: encoded.
        rate: requests a second.
        plan: how long.
    """
    due = arrivals(rate, plan)

    async def drive(tally: Tally, ask: _Ask) -> None:
        loop = asyncio.get_running_loop()
        start = loop.time()
        on_their_way: set[asyncio.Task[None]] = set()
        try:
            for index, after in enumerate(due):
                wait = start + after - loop.time()
                if wait > 0:
                    await asyncio.sleep(wait)
                elif index % 16 == 0:
                    await asyncio.sleep(0)  # a late client must still read the answers that are there
                if plan.target_ms is not None and tally.hopeless:
                    break
                task = asyncio.ensure_future(ask(index, start + after))
                on_their_way.add(task)
                task.add_done_callback(on_their_way.discard)
            while on_their_way and not (plan.target_ms is not None and tally.hopeless):
                await asyncio.wait(on_their_way, return_when=asyncio.FIRST_COMPLETED)
        finally:
            left = list(on_their_way)
            for task in left:
                task.cancel()
            await asyncio.gather(*left, return_exceptions=True)

    trial = _run(target, pictures, plan, drive, planned=len(due))
    return _trial(trial, plan, rate=rate, clients=None)


def closed_loop(target: Target, pictures: Sequence[bytes], clients: int, plan: Plan) -> Trial:
    """Each of several clients sends when it has its answer: what the server can do, not what a user waits for.

    Args:
        target: is asked.
        pictures: encoded.
        clients: at once.
        plan: how long.
    """

    async def drive(_: Tally, ask: _Ask) -> None:
        loop = asyncio.get_running_loop()
        start, taken = loop.time(), 0

        async def client() -> None:
            nonlocal taken
            while (plan.requests is None or taken < plan.requests) and (
                plan.seconds is None or loop.time() - start < plan.seconds
            ):
                index, taken = taken, taken + 1
                await ask(index, None)

        tasks = [asyncio.ensure_future(client()) for _ in range(clients)]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()

    return _trial(_run(target, pictures, plan, drive, planned=plan.requests), plan, rate=None, clients=clients)


@dataclass
class _Ended:
    tally: Tally
    reconnected: int
    waited: int
    wall_s: float
    sending_s: float
    cpu: float


def _run(
    target: Target,
    pictures: Sequence[bytes],
    plan: Plan,
    drive: Callable[[Tally, _Ask], Coroutine[Any, Any, None]],
    planned: int | None,
) -> _Ended:
    order = np.random.default_rng([plan.seed, 1])
    turns = order.integers(0, len(pictures), 1 << 16)

    async def whole() -> _Ended:
        tally = Tally(planned)
        loop = asyncio.get_running_loop()
        async with target:
            for index in range(plan.warmup):
                await _settled(target, pictures[index % len(pictures)], plan, plan.timeout_s)
            target.waited = target.reconnected = 0

            async def ask(index: int, due: float | None) -> None:
                sent = loop.time()
                tally.last_sent = sent
                if due is not None:
                    tally.lag_ms.append(1e3 * (sent - due))
                begun = sent if due is None else due
                tally.sent += 1
                tally.at_once += 1
                tally.most_at_once = max(tally.most_at_once, tally.at_once)
                try:
                    fault = await _settled(target, pictures[turns[index % len(turns)]], plan, begun + plan.timeout_s - sent)
                finally:
                    tally.at_once -= 1
                tally.last_done = loop.time()
                if fault is None:
                    tally.answered[index] = 1e3 * (tally.last_done - begun)
                else:
                    tally.failed[fault] += 1
                late = plan.target_ms is not None and 1e3 * (tally.last_done - begun) > plan.target_ms
                tally.late += late or fault is not None

            begun, cpu = loop.time(), _cpu_s()
            await drive(tally, ask)
            wall = max(tally.last_done - begun, 1e-9)
            sending = max(tally.last_sent - begun, 1e-9)
            cpu = (_cpu_s() - cpu) / max(loop.time() - begun, 1e-9)
            return _Ended(tally, target.reconnected, target.waited, wall, sending, cpu)

    return asyncio.run(whole())


async def _settled(target: Target, picture: bytes, plan: Plan, left_s: float) -> str | None:
    """Ask once; what went wrong, or None."""
    try:
        reply = await asyncio.wait_for(target.ask(picture), left_s)
    except asyncio.TimeoutError:
        return "timeout"
    except Failed as failed:
        return str(failed)
    return fault_of(reply, plan.wanted)


def _trial(ended: _Ended, plan: Plan, *, rate: float | None, clients: int | None) -> Trial:
    tally = ended.tally
    done = len(tally.answered) + tally.failed.total()
    return Trial(
        mode="closed" if rate is None else "open",
        rate=rate,
        clients=clients,
        seed=plan.seed,
        planned=tally.planned,
        sent=tally.sent,
        latency_ms=tuple(round(ms, 4) for _, ms in sorted(tally.answered.items())),
        failed=dict(sorted(tally.failed.items())),
        lag_ms=tuple(round(ms, 4) for ms in tally.lag_ms),
        reconnected=ended.reconnected,
        most_at_once=tally.most_at_once,
        waited=ended.waited,
        wall_s=round(ended.wall_s, 6),
        sending_s=round(ended.sending_s, 6),
        client_cpu=round(ended.cpu, 4),
        ended_early=rate is not None and done < (tally.planned or 0),
    )


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def fresh_seed(seed: int, number: int) -> int:
    """The seed of one of several trials."""
    return int(np.random.SeedSequence([seed, number]).generate_state(1)[0])
