"""Many requests to a running server, some of them bad: none may be lost, none wrong, and its memory may not grow.

    python tests/serve/soak.py URL ARTIFACT PICTURE... [--requests N] [--bad SHARE] [--at-once N] [--header FILE] [--pid PID]

URL is that of the model (http://127.0.0.1:8080/predictions/NAME), of TorchServe or Ray Serve alike. What is right is what the
predictor answers in this process. PID is the server's: the memory is that of all processes below it, their own pages alone.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections import Counter
from pathlib import Path

import httpx
import psutil

from segdeploy.artifact.folder import open_artifact
from segdeploy.runtime.open import open_session
from segdeploy.serve.predictor import Predictor
from segdeploy.serve.request import Request

_SAMPLES = 20
_GROWTH = 0.05


def main():
    """Exit status 1 where something was lost or wrong, or the memory grew."""
    parser = argparse.ArgumentParser()
    parser.add_argument("url")
    parser.add_argument("artifact", type=Path)
    parser.add_argument("pictures", nargs="+", type=Path)
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--bad", type=float, default=0.05)
    parser.add_argument("--at-once", type=int, default=8)
    parser.add_argument("--header", type=Path)
    parser.add_argument("--pid", type=int)
    options = parser.parse_args()
    bodies = [path.read_bytes() for path in options.pictures]
    with open_session(open_artifact(options.artifact), "cpu", 1) as session:
        predictor = Predictor(session)
        right = [predictor.answer([Request(body)])[0].body for body in bodies]
    bad = [b"", b"no picture", bodies[0][: len(bodies[0]) // 2], b"\xff\xd8\xff\xe0" + bytes(50)]
    every = round(1 / options.bad) if options.bad else options.requests + 1
    headers = dict([options.header.read_text().strip().split(": ", 1)]) if options.header else {}
    counted, memory = Counter(), []
    started = time.monotonic()

    async def one(client, index):
        wrong = index % every == every - 1
        which = index % len(bodies)
        content = bad[index // every % len(bad)] if wrong else bodies[which]
        try:
            answer = await client.post(options.url, content=content, headers=headers)
        except httpx.HTTPError as error:
            return f"LOST: {type(error).__name__}"
        if wrong:
            return "refused" if 400 <= answer.status_code < 500 else f"WRONG: {answer.status_code} for a bad one"
        if answer.status_code != 200:
            return f"WRONG: {answer.status_code} for a good one"
        return "right" if answer.content == right[which] else "WRONG: another mask"

    async def work():
        indices = iter(range(options.requests))
        async with httpx.AsyncClient(timeout=120, trust_env=False) as client:

            async def run():
                for index in indices:
                    counted[await one(client, index)] += 1
                    if options.pid and index % max(1, options.requests // _SAMPLES) == 0:
                        memory.append(_own_bytes(options.pid))

            await asyncio.gather(*(run() for _ in range(options.at_once)))

    asyncio.run(work())
    taken = time.monotonic() - started
    print(f"{options.requests} requests in {taken:.0f} s, {options.requests / taken:.1f}/s: {dict(counted)}")
    failed = sum(counted.values()) != options.requests or any(name[:5] in ("LOST:", "WRONG") for name in counted)
    return int(failed or (bool(memory) and _growth(memory) > _GROWTH))


def _growth(memory):
    """As a share, of all processes together; says which grew most."""
    print("memory in MB:", " ".join(f"{sum(one.values()) / 1e6:.0f}" for one in memory))
    warm = memory[len(memory) // 4]  # by then every buffer has been made
    growth = sum(memory[-1].values()) / sum(warm.values()) - 1
    for pid in sorted(memory[-1], key=lambda one: warm.get(one, 0) - memory[-1][one])[:4]:
        name = psutil.Process(pid).name() if psutil.pid_exists(pid) else "ended"
        print(f"  {pid} {name}: {warm.get(pid, 0) / 1e6:.0f} to {memory[-1][pid] / 1e6:.0f} MB")
    print(f"growth from the first quarter to the end: {100 * growth:+.1f} %")
    return growth


def _own_bytes(pid):
    """Of a process and of each below it: pages that no other has too, so that what is shared is not counted anew."""
    found = {}
    root = psutil.Process(pid)
    for process in (root, *root.children(recursive=True)):
        try:
            found[process.pid] = process.memory_full_info().uss
        except psutil.Error:  # noqa: PERF203  it has ended meanwhile
            continue
    return found


if __name__ == "__main__":
    sys.exit(main())
