"""Servers of one artifact beside its predictor in a process of its own: images a second, and latency at half of that.

    python tests/serve/throughput.py ARTIFACT PICTURE... [--checkpoint FILE] [--only NAME,...] [--rounds N] [--json FILE]

Whatever answers runs on ``--server-cpus`` (0), with all of its processes; what asks on ``--client-cpus`` (1). They are measured
in turns, another one first in each round. In each turn a subject is started anew, alone, and left idle for some seconds; then
it is asked: ``--warm`` requests that do not count; one after the other (a lone request); by ``--at-once`` (8) connections that
ask again as soon as they are answered; and, with ``--half``, in an open loop at half of the rate that it has just kept, at even
distances and at random ones (Poisson), where latency counts from the moment at which a request was due. A mask that is not the
predictor's ends it with exit status 1.

``--checkpoint`` adds mmseg's own handler for TorchServe, as its package has it, with a ``postprocess`` that answers.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import multiprocessing
import os
import socket
import sys
import tempfile
import time
import zipfile
from collections import Counter
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, HTTPServer
from importlib.util import find_spec
from pathlib import Path
from threading import Thread

import httpx
import numpy as np
import psutil
from scipy import stats

from segdeploy.artifact.folder import open_artifact
from segdeploy.serve.archive import pack
from segdeploy.serve.model_config import ModelConfig
from segdeploy.serve.predictor import open_predictor
from segdeploy.serve.request import Request

NAME = "model"
_IDLE_S = 3
_MENDED = """
import cv2
from mmseg_handler import MMsegHandler

def postprocess(self, data):
    return [cv2.imencode(".png", one.pred_sem_seg.data[0].cpu().numpy().astype("uint8"))[1].tobytes() for one in data]

MMsegHandler.postprocess = postprocess
service = MMsegHandler()

def handle(data, context):
    if not getattr(service, "initialized", False):
        service.initialize(context)
    return service.handle(data, context) if data else None
"""


@dataclass
class Turn:
    """What was measured of one subject in one round; latencies in milliseconds."""

    idle: float  # CPU time of a second without work
    lone: list[float]
    rate: float
    busy: list[float]
    even: list[float] = field(default_factory=list)
    random: list[float] = field(default_factory=list)
    cpu_s: dict[str, float] = field(default_factory=dict)


# What answers: each runs in a process of its own, and is asked through ``Asked`` or ``Direct``.


def torchserve(options, scratch, batch):
    """As ``segdeploy serve`` starts it, from an archive as ``segdeploy pack`` makes it."""
    from segdeploy.serve.server import start

    config = ModelConfig(batch_size=batch)
    return start(pack(open_artifact(options.artifact), name=NAME, out=scratch, config=config, unverified=True))


@contextlib.contextmanager
def ray(options, scratch, batch):
    """As ``segdeploy serve --engine ray`` starts it."""
    from segdeploy.base.machine import usable_cpus
    from segdeploy.serve.ray_app import RaySettings
    from segdeploy.serve.ray_server import start_ray

    settings = RaySettings(str(options.artifact.resolve()), NAME, cpus=usable_cpus(), batch_size=batch)
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
    with start_ray(settings, port=port, token_file=scratch / "authorization") as server:
        name, value = server.header_file.read_text().strip().split(": ", 1)
        yield argparse.Namespace(url=server.url, headers={name: value})


@contextlib.contextmanager
def plain(options, scratch, batch):
    """Python's own HTTP server around the predictor: one connection after the other, closed after its answer."""
    predictor = open_predictor(options.artifact, None)
    predictor.warm_up()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            answer = predictor.answer([Request(body)])[0]
            self.send_response(answer.status)
            self.send_header("Content-Length", str(len(answer.body)))
            self.end_headers()
            self.wfile.write(answer.body)

        def log_message(self, *_):
            pass

    class Server(HTTPServer):
        request_queue_size = 64

    with Server(("127.0.0.1", 0), Handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield argparse.Namespace(url=f"http://127.0.0.1:{server.server_port}/", headers={})
        server.shutdown()


@contextlib.contextmanager
def mmseg(options, scratch, batch):
    """mmseg's handler, mended, on the checkpoint in PyTorch; behind the TorchServe that ``segdeploy serve`` starts."""
    from segdeploy.models.checkpoint import load_checkpoint
    from segdeploy.serve.server import start

    package = Path(find_spec("mmseg").submodule_search_locations[0])
    from mmengine.config import Config

    config = Config(dict(load_checkpoint(options.checkpoint).config)).pretty_text
    model = {"modelName": NAME, "serializedFile": "model.pth", "handler": "mended.py", "modelVersion": "1.0"}
    told = {"createdOn": "01/01/1980 00:00:00", "runtime": "python", "model": model, "archiverVersion": "0.12.0"}
    with zipfile.ZipFile(scratch / f"{NAME}.mar", "w") as archive:
        archive.writestr("MAR-INF/MANIFEST.json", json.dumps(told))
        archive.writestr("mended.py", _MENDED)
        archive.writestr("config.py", config)
        archive.write(package / ".mim" / "tools" / "torchserve" / "mmseg_handler.py", "mmseg_handler.py")
        archive.write(options.checkpoint, "model.pth")
    os.environ["OMP_NUM_THREADS"] = str(len(options.server_cpus))
    with start(scratch / f"{NAME}.mar") as server:
        yield server


SERVERS = {
    "torchserve": (torchserve, 1),
    "torchserve-batch": (torchserve, 8),
    "ray": (ray, 1),
    "ray-batch": (ray, 8),
    "plain": (plain, 1),
    "mmseg": (mmseg, 1),
}
DIRECT = {"in-process": 1, "in-process-batch": 8}


def serve(name, options, pipe):
    """The process of a server: says where it listens, and ends when it is told to."""
    os.sched_setaffinity(0, options.server_cpus)
    begin, batch = SERVERS[name]
    with tempfile.TemporaryDirectory() as scratch, begin(options, Path(scratch), batch) as server:
        pipe.send((server.url, server.headers))
        pipe.recv()


def answer(name, options, pipe):
    """The process of the predictor: runs what it is told to, and says how long each took."""
    os.sched_setaffinity(0, options.server_cpus)
    predictor = open_predictor(options.artifact, None)
    predictor.warm_up(DIRECT[name])
    pipe.send(None)
    while (told := pipe.recv()) is not None:
        bodies, together, due = told
        answers, taken, began = [], [], time.perf_counter()
        for index in range(0, len(bodies), together):
            started = time.perf_counter()
            if due is not None:
                time.sleep(max(0.0, began + due[index] - started))
                started = began + due[index]
            answers += predictor.answer([Request(body) for body in bodies[index : index + together]])
            taken.append(1e3 * (time.perf_counter() - started))
        pipe.send((time.perf_counter() - began, taken, [one.body for one in answers]))


class Subject:
    """One that answers, and its process."""

    def __init__(self, name, options):
        self.name, self.turns, self._options = name, [], options

    @contextlib.contextmanager
    def running(self):
        """Its process, and what belongs to it, until the block ends."""
        self._pipe, theirs = multiprocessing.Pipe()
        work = answer if self.name in DIRECT else serve
        self.process = multiprocessing.get_context("spawn").Process(target=work, args=(self.name, self._options, theirs))
        self.process.start()
        theirs.close()
        try:
            self._where = self._pipe.recv()
            yield
        finally:
            with contextlib.suppress(OSError):
                self._pipe.send(None)
            self.process.join(60)

    def cpu_s(self):
        """Seconds that each of its processes has used."""
        found = {}
        for one in (psutil.Process(self.process.pid), *psutil.Process(self.process.pid).children(recursive=True)):
            with contextlib.suppress(psutil.Error):
                found[f"{one.name()} {one.pid}"] = sum(one.cpu_times()[:2])
        return found

    def run(self, bodies, *, at_once=1, due=None):
        """Have all answered: seconds in all, milliseconds of each, and the answers."""
        if self.name in DIRECT:
            self._pipe.send((bodies, DIRECT[self.name] if at_once > 1 else 1, due))
            return self._pipe.recv()
        return asyncio.run(self._asked(bodies, at_once, due))

    async def _asked(self, bodies, at_once, due):
        url, headers = self._where
        taken, answers = [0.0] * len(bodies), [b""] * len(bodies)
        indices = iter(range(len(bodies)))
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
        async with httpx.AsyncClient(timeout=300, trust_env=False, headers=headers, limits=limits) as client:
            began = time.perf_counter()

            async def one(index, started):
                got = await client.post(url, content=bodies[index])
                taken[index] = 1e3 * (time.perf_counter() - started)
                answers[index] = got.content if got.status_code == 200 else b"%d" % got.status_code

            async def when_due(index):
                await asyncio.sleep(began + due[index] - time.perf_counter())
                await one(index, began + due[index])

            async def loop():
                for index in indices:
                    await one(index, time.perf_counter())

            await asyncio.gather(*(map(when_due, indices) if due is not None else (loop() for _ in range(at_once))))
            return time.perf_counter() - began, taken, answers


def measure(subject, bodies, right, options, seed):
    """One turn.

    Raises:
        SystemExit: an answer is not the predictor's.
    """

    def run(count, **how):
        chosen = [bodies[index % len(bodies)] for index in range(count)]
        seconds, taken, answers = subject.run(chosen, **how)
        for index, one in enumerate(answers):
            if one != right[index % len(right)] and (subject.name != "mmseg" or not one.startswith(b"\x89PNG")):
                sys.exit(f"{subject.name}: another answer than the predictor's: {one[:40]!r}")
        return seconds, taken

    before = sum(subject.cpu_s().values())
    time.sleep(_IDLE_S)
    idle = (sum(subject.cpu_s().values()) - before) / _IDLE_S
    run(options.warm, at_once=options.at_once)
    _, lone = run(options.lone)
    before = subject.cpu_s()
    seconds, busy = run(options.requests, at_once=options.at_once)
    turn = Turn(idle, lone, options.requests / seconds, busy)
    turn.cpu_s = {name: used - before.get(name, 0) for name, used in subject.cpu_s().items()}
    if options.half:
        distance = 2 / turn.rate
        turn.even = run(options.half, due=[index * distance for index in range(options.half)])[1]
        random = np.random.default_rng(seed)
        turn.random = run(options.half, due=list(np.cumsum(random.exponential(distance, options.half))))[1]
    subject.turns.append(turn)


def interval(values):
    """The mean of the rounds, and half of its 95 % interval (Student's t)."""
    if len(values) < 2:
        return np.mean(values), np.nan
    return np.mean(values), stats.t.ppf(0.975, len(values) - 1) * stats.sem(values)


def pooled(subject, name):
    """Of all rounds."""
    return [value for turn in subject.turns for value in getattr(turn, name)]


def show(subjects):
    """The table: rates and shares by rounds, latencies of all rounds together."""
    base = next(one for one in subjects if one.name == "in-process")
    heads = (
        "name             ",
        "images/s      ",
        "% of in-process",
        "lone ms, p99",
        "busy, p99  ",
        "half: even p99, random p99",
        "idle",
    )
    print("   ".join(heads))
    for one in subjects:
        rate, around = interval([turn.rate for turn in one.turns])
        share, width = interval([100 * mine.rate / theirs.rate for mine, theirs in zip(one.turns, base.turns, strict=True)])
        lone, busy, even, random = (pooled(one, name) for name in ("lone", "busy", "even", "random"))
        alone = np.median(lone)
        cells = [f"{one.name:17s}", f"{rate:6.2f} ± {around:4.2f}", f"{share:6.1f} ± {width:4.1f}"]
        cells += [f"{np.median(values):5.0f} {np.percentile(values, 99):5.0f}" for values in (lone, busy)]
        for values in filter(None, (even, random)):
            late = np.percentile(values, 99)
            cells.append(f"{late:5.0f} = {late / alone:.2f} x lone")
        print("   ".join(cells), f"  {100 * np.mean([turn.idle for turn in one.turns]):.1f} % of a CPU")
    print("\nCPU time of a request at full load, ms, by process:")
    for one in subjects:
        used = Counter()
        for turn in one.turns:
            for name, value in turn.cpu_s.items():
                used[name.split()[0]] += 1e3 * value / len(pooled(one, "busy"))
        print(f"{one.name:17s}", ", ".join(f"{name} {value:.1f}" for name, value in used.most_common() if value > 0.05))


def main():
    """See above."""
    parser = argparse.ArgumentParser()
    parser.add_argument("artifact", type=Path)
    parser.add_argument("pictures", nargs="+", type=Path)
    parser.add_argument("--checkpoint", type=Path)
    parser.add_argument("--only")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--requests", type=int, default=64)
    parser.add_argument("--lone", type=int, default=12)
    parser.add_argument("--warm", type=int, default=64)
    parser.add_argument("--half", type=int, default=0)
    parser.add_argument("--at-once", type=int, default=8)
    parser.add_argument("--server-cpus", type=lambda text: [int(one) for one in text.split(",")], default=[0])
    parser.add_argument("--client-cpus", type=lambda text: [int(one) for one in text.split(",")], default=[1])
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    names = options.only.split(",") if options.only else [*DIRECT, *SERVERS]
    names = [one for one in names if one != "mmseg" or options.checkpoint]
    bodies = [path.read_bytes() for path in options.pictures]
    subjects = [Subject(name, options) for name in names]
    os.sched_setaffinity(0, options.client_cpus)
    first = Subject("in-process", options)
    with first.running():
        right = first.run(bodies)[2]
    for number in range(options.rounds):
        for index in range(len(subjects)):
            one = subjects[(index + number) % len(subjects)]
            with one.running():
                measure(one, bodies, right, options, number)
            print(f"round {number + 1}: {one.name}: {one.turns[-1].rate:.2f}/s", file=sys.stderr)
    show(subjects)
    if options.json:
        options.json.write_text(json.dumps({one.name: [vars(turn) for turn in one.turns] for one in subjects}))


if __name__ == "__main__":
    main()
