"""A worker of TorchServe killed under load: every request gets its mask or 5xx, and masks come again after some seconds.

    python tests/serve/kill_worker.py URL ARTIFACT PICTURE... --pid PID [--header FILE] [--rate 5] [--seconds 60] [--kills 3]

Requests come at an even rate, whatever is answered. PID is that of ``segdeploy serve``; below it a worker of the model is
killed (SIGKILL), at even distances, so many times. What is right is what the predictor answers in this process.
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


def workers(pid):
    """Processes of the model below one."""
    below = psutil.Process(pid).children(recursive=True)
    return [one for one in below if any("model_service_worker" in word for word in one.cmdline())]


def main():
    """Exit status 1 where a mask was wrong, a request got no answer or another status, or the masks did not come again."""
    parser = argparse.ArgumentParser()
    parser.add_argument("url")
    parser.add_argument("artifact", type=Path)
    parser.add_argument("pictures", nargs="+", type=Path)
    parser.add_argument("--pid", type=int, required=True)
    parser.add_argument("--header", type=Path)
    parser.add_argument("--rate", type=float, default=5)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--kills", type=int, default=3)
    options = parser.parse_args()
    bodies = [path.read_bytes() for path in options.pictures]
    with open_session(open_artifact(options.artifact), "cpu", 1) as session:
        predictor = Predictor(session)
        right = [predictor.answer([Request(body)])[0].body for body in bodies]
    headers = dict([options.header.read_text().strip().split(": ", 1)]) if options.header else {}
    counted, answered, killed = Counter(), [], []

    async def one(client, index):
        asked = time.monotonic()
        try:
            answer = await client.post(options.url, content=bodies[index % len(bodies)], headers=headers)
        except httpx.HTTPError as error:
            counted[f"LOST: {type(error).__name__}"] += 1
            return
        same = answer.content == right[index % len(right)]
        good = answer.status_code == 200 and same
        known = "right mask" if good else str(answer.status_code) if answer.status_code >= 500 else "WRONG"
        counted[known] += 1
        answered.append((asked, time.monotonic(), good))

    async def kill():
        for _ in range(options.kills):
            await asyncio.sleep(options.seconds / (options.kills + 1))
            victim = workers(options.pid)[0]
            killed.append(time.monotonic())
            victim.kill()

    async def work():
        async with httpx.AsyncClient(timeout=60, trust_env=False, limits=httpx.Limits(max_connections=None)) as client:
            killing, tasks = asyncio.create_task(kill()), []
            for index in range(round(options.rate * options.seconds)):
                tasks.append(asyncio.create_task(one(client, index)))
                await asyncio.sleep(1 / options.rate)
            await asyncio.gather(killing, *tasks)

    asyncio.run(work())
    print(f"{sum(counted.values())} requests, {len(killed)} workers killed: {dict(counted)}")
    gaps = [min((end for _, end, good in answered if good and end > moment), default=None) for moment in killed]
    for moment, gap in zip(killed, gaps, strict=True):
        missed = sum(
            not good for asked, end, good in answered if end > moment and (gap is None or asked < gap) and asked > moment - 1
        )
        print(
            "  never again a mask" if gap is None else f"  the next mask after {gap - moment:.1f} s; {missed} requests got none"
        )
    return int(None in gaps or any(name.startswith(("LOST", "WRONG")) for name in counted))


if __name__ == "__main__":
    sys.exit(main())
