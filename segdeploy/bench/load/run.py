"""A whole run: asks once, then measures what was asked for, and keeps what there is when it is interrupted."""

from __future__ import annotations

import asyncio
import platform
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import msgspec
import numpy as np

from segdeploy import __version__
from segdeploy.base.errors import InputError, ServeError
from segdeploy.base.machine import cpu_model, usable_cpus
from segdeploy.base.progress import progress_bar
from segdeploy.bench.load.drive import Plan, closed_loop, fresh_seed, open_loop
from segdeploy.bench.load.http import Http
from segdeploy.bench.load.overhead import client_overhead
from segdeploy.bench.load.result import SCHEMA, LoadReport, Pictures, Search, Trial
from segdeploy.bench.load.search import search
from segdeploy.bench.load.target import Failed, Reply, Target, fault_of, is_html
from segdeploy.bench.load.text import load_of

_FIRST_LOOK = 20  # requests of one client, by which the search begins


@dataclass(frozen=True)
class Wanted:
    """What to measure.

    Attributes:
        rates: open loops, requests a second.
        clients: closed loops.
        target_p99_ms: search the highest rate that keeps it; None for no search.
        highest: rate that the search may try.
    """

    rates: tuple[float, ...] = ()
    clients: tuple[int, ...] = ()
    target_p99_ms: float | None = None
    highest: float = 10_000.0


def run_load(
    target: Target,
    name: str,
    files: Sequence[bytes],
    pictures: Pictures,
    *,
    wanted: Wanted,
    plan: Plan,
    command: str = "segdeploy load",
) -> LoadReport:
    """Measure.

    Args:
        target: is asked.
        name: of it: a URL, or a folder.
        files: encoded pictures.
        pictures: what they are.
        wanted: which loads.
        plan: of each; its seed is the run's.
        command: as it was typed.

    Raises:
        ServeError: it does not answer, or not with what was asked for.
        InputError: it refuses the picture, or the caller.
    """
    _ask_first(target, name, files[0], plan)
    report = LoadReport(
        schema=SCHEMA,
        command=command,
        when=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        target=name,
        in_process=not isinstance(target, Http),
        timeout_s=plan.timeout_s,
        seed=plan.seed,
        pictures=pictures,
        machine={
            "cpu": cpu_model(),
            "cpus": f"{usable_cpus()} CPUs",
            "os": f"{platform.system()} {platform.release()}",
            "python": f"Python {platform.python_version()}",
            "segdeploy": f"segdeploy {__version__}",
        },
        overhead=client_overhead(files) if isinstance(target, Http) else None,
        trials=(),
        search=None,
    )
    trials: list[Trial] = []
    found: list[Search] = []
    total = len(wanted.rates) + len(wanted.clients) if wanted.target_p99_ms is None else None
    number = 0

    def next_plan() -> Plan:
        nonlocal number
        number += 1
        return replace(plan, seed=fresh_seed(plan.seed, number))

    interrupted = False
    try:
        with progress_bar("load", total) as advance:
            for clients in wanted.clients:
                trials.append(closed_loop(target, files, clients, next_plan()))
                advance(note=load_of(trials[-1]))
            for rate in wanted.rates:
                trials.append(open_loop(target, files, rate, next_plan()))
                advance(note=load_of(trials[-1]))
            if wanted.target_p99_ms is not None:
                limit = wanted.target_p99_ms

                def measure(rate: float) -> Trial:
                    advance(note=f"{rate:.3g}/s")
                    return open_loop(target, files, rate, replace(next_plan(), target_ms=limit))

                start = _first_rate(target, files, next_plan())
                search(measure, start, limit, wanted.highest, found.append)
    except KeyboardInterrupt:
        if not trials and not found:
            raise
        interrupted = True
    values = {"trials": tuple(trials), "search": found[-1] if found else None, "interrupted": interrupted}
    return msgspec.structs.replace(report, **values)


def _first_rate(target: Target, files: Sequence[bytes], plan: Plan) -> float:
    """Half of what one client alone can do."""
    alone = closed_loop(target, files, 1, replace(plan, requests=_FIRST_LOOK, seconds=None))
    if not alone.latency_ms:
        kinds = ", ".join(alone.failed)
        raise ServeError(expected="answers to one client alone", got=kinds, fix="see the server's log")
    return 500 / float(np.median(alone.latency_ms))


def _ask_first(target: Target, name: str, picture: bytes, plan: Plan) -> None:
    """One request, so that what is wrong with all of them is told once, in a line."""

    async def once() -> Reply:
        async with target:
            return await asyncio.wait_for(target.ask(picture), plan.timeout_s)

    try:
        reply = asyncio.run(once())
    except Failed as failed:
        raise ServeError(expected=f"a server at {name}", got=str(failed), fix="start it, or check the URL") from failed
    except asyncio.TimeoutError as error:
        got = f"silence for {plan.timeout_s:g} s"
        raise ServeError(expected=f"an answer from {name}", got=got, fix="see the server's log, or raise --timeout") from error
    fault = fault_of(reply, plan.wanted)
    if fault is None:
        return
    text = " ".join(reply.body[:200].decode(errors="replace").split())
    if is_html(reply):
        fix = "check the URL: it is the model's, such as http://127.0.0.1:8080/predictions/upernet"
        raise ServeError(expected=f"an {plan.wanted} from {name}", got=f"a page of HTML (status {reply.status})", fix=fix)
    if reply.status in {401, 403} or (reply.status == 400 and "token" in text.lower()):
        raise InputError(
            expected=f"leave to ask {name}",
            got=f"{reply.status}: {text}",
            fix="give the token: in SEGDEPLOY_TOKEN, or --header @FILE with the file that the server wrote",
        )
    raise ServeError(expected=f"an {plan.wanted} from {name}", got=f"{fault}: {text}", fix="check the URL and the pictures")
