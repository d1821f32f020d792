"""Proof of what Ray Serve does on a cluster, by hand: it takes some minutes, and two CPUs.

    python tests/serve/ray_proof.py ARTIFACT OTHER_ARTIFACT PICTURE...

A head and a node of one CPU each. 1,000 requests: byte for byte the masks of this process. Then, under load that waits for no
answer: a node is removed (every request gets its mask or 5xx, and both replicas are back on a new node), and the other artifact
is deployed (every request gets the mask of the one or of the other, and none is lost).
"""

from __future__ import annotations

import asyncio
import socket
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import msgspec
from ray.cluster_utils import Cluster

from segdeploy.artifact.folder import open_artifact
from segdeploy.runtime.open import open_session
from segdeploy.serve.predictor import Predictor
from segdeploy.serve.ray_app import RaySettings, build
from segdeploy.serve.ray_server import start_ray
from segdeploy.serve.request import Request


def main():
    """Exit status 1 where a claim does not hold."""
    first, second = (Path(one).resolve() for one in sys.argv[1:3])
    bodies = [Path(one).read_bytes() for one in sys.argv[3:]]
    right, other = answers_of(first, bodies), answers_of(second, bodies)
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    node = cluster.add_node(num_cpus=1)
    settings = RaySettings(str(first), "proof", min_replicas=2, max_replicas=2, batch_size=8, max_queued=200)
    try:
        listen_on_the_head_alone(cluster.address, port)
        with start_ray(settings, port=port, address=cluster.address) as server:
            same = asyncio.run(load(server.url, bodies, [right], 1000, rate=None))
            print("1,000 requests:", dict(same))
            removal = under_load(lambda: remove(cluster, node), server.url, bodies, [right])
            print("a node removed:", dict(removal))
            back = asyncio.run(load(server.url, bodies, [right], 200, rate=20))
            print("afterwards:", dict(back))
            new = msgspec.structs.replace(settings, artifact=str(second))
            swap = under_load(lambda: deploy(new), server.url, bodies, [right, other])
            print("redeployed:", dict(swap))
            after = asyncio.run(load(server.url, bodies, [other], 100, rate=20))
            print("afterwards:", dict(after))
    finally:
        cluster.shutdown()
    lost = [one for counted in (same, removal, back, swap, after) for one in counted if one.startswith(("LOST", "WRONG"))]
    clean = all(set(counted) == {"mask 1"} for counted in (same, back, after)) and set(swap) == {"mask 1", "mask 2"}
    return int(bool(lost) or not clean)


def listen_on_the_head_alone(address, port):
    """Both nodes are this machine, and both proxies would share the port: connections to the one that goes would be cut."""
    import ray
    from ray import serve

    ray.init(address=address, log_to_driver=False)
    serve.start(proxy_location="HeadOnly", http_options={"host": "127.0.0.1", "port": port})
    ray.shutdown()


def answers_of(folder, bodies):
    """Of each picture, what the predictor answers in this process."""
    with open_session(open_artifact(folder), "cpu", 1) as session:
        predictor = Predictor(session)
        return [predictor.answer([Request(body)])[0].body for body in bodies]


async def load(url, bodies, rights, count, *, rate):
    """So many requests: 8 at once, or so many a second whatever comes back."""
    counted = Counter()
    gate = asyncio.Semaphore(8 if rate is None else count)

    async def one(client, index):
        which = index % len(bodies)
        async with gate:
            try:
                answer = await client.post(url, content=bodies[which])
            except httpx.HTTPError as error:
                counted[f"LOST: {type(error).__name__}"] += 1
                return
        if answer.status_code == 200:
            known = [number for number, right in enumerate(rights, 1) if answer.content == right[which]]
            counted[f"mask {known[0]}" if known else "WRONG mask"] += 1
        else:
            counted[str(answer.status_code) if answer.status_code >= 500 else f"WRONG: {answer.status_code}"] += 1

    async with httpx.AsyncClient(timeout=60, trust_env=False, limits=httpx.Limits(max_connections=None)) as client:
        tasks = []
        for index in range(count):
            tasks.append(asyncio.create_task(one(client, index)))
            if rate is not None:
                await asyncio.sleep(1 / rate)
        await asyncio.gather(*tasks)
    return counted


def under_load(act, url, bodies, rights):
    """20 requests a second for half a minute; after some seconds something is done, in the main thread, as Ray wants it."""
    with ThreadPoolExecutor(1) as pool:
        counted = pool.submit(lambda: asyncio.run(load(url, bodies, rights, 600, rate=20)))
        time.sleep(7)
        act()
        return counted.result()


def remove(cluster, node):
    """The node goes at once; another comes, and both replicas run again."""
    from ray import serve

    cluster.remove_node(node, allow_graceful=False)
    cluster.add_node(num_cpus=1)
    started, seen_less = time.monotonic(), False
    while time.monotonic() - started < 120:
        states = serve.status().applications["segdeploy"].deployments["model"]
        running = states.replica_states.get("RUNNING", 0)
        seen_less |= running < 2
        if seen_less and running == 2:
            print(f"  two replicas again after {time.monotonic() - started:.0f} s")
            return
        time.sleep(0.2)
    raise RuntimeError("no second replica came")


def deploy(settings):
    """Another artifact in place of the one that is served."""
    from ray import serve

    started = time.monotonic()
    serve.run(build(msgspec.to_builtins(settings)), name="segdeploy", route_prefix="/")
    print(f"  deployed after {time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    sys.exit(main())
