"""Ray Serve on a small cluster of its own: a head and one node."""

from __future__ import annotations

import asyncio
import os
import socket
import time

import numpy as np
import pytest

from segdeploy.runtime.open import open_session
from segdeploy.serve.predictor import Predictor
from segdeploy.serve.request import Request

pytest.importorskip("ray", reason="ray is not installed")
httpx = pytest.importorskip("httpx", reason="httpx is not installed")
pytestmark = pytest.mark.slow


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


@pytest.fixture(scope="module")
def right(onnx_artifact, encoded):
    """Of each picture, the answer of a predictor in this process."""
    with open_session(onnx_artifact, "cpu") as session:
        predictor = Predictor(session)
        return [predictor.answer([Request(body)])[0].body for body in encoded]


@pytest.fixture(scope="module")
def server(onnx_artifact, tmp_path_factory):
    """The tiny model in two replicas, with a token; two nodes."""
    from ray.cluster_utils import Cluster

    from segdeploy.serve.ray_app import RaySettings
    from segdeploy.serve.ray_server import start_ray

    shared = {"include_dashboard": False, "object_store_memory": 100 << 20}
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, **shared})
    try:
        cluster.add_node(num_cpus=2, object_store_memory=100 << 20)  # one for another application
        settings = RaySettings(
            str(onnx_artifact.folder), "tiny", min_replicas=2, max_replicas=2, batch_size=4, batch_delay_ms=20, max_queued=20
        )
        token = tmp_path_factory.mktemp("token") / "authorization"
        with start_ray(settings, port=free_port(), address=cluster.address, token_file=token) as running:
            yield running
    finally:
        cluster.shutdown()


@pytest.fixture
def bearer(server):
    """The header that carries the token; a new one each time, since Triton's client adds to it."""
    name, value = server.header_file.read_text().strip().split(": ", 1)
    return {name: value}


def flood(server, bodies, count, at_once, headers):
    """So many requests, at most so many at once: (which body, status, headers, content) of each."""

    async def run():
        gate = asyncio.Semaphore(at_once)
        async with httpx.AsyncClient(timeout=60, trust_env=False, limits=httpx.Limits(max_connections=at_once)) as client:

            async def one(index):
                async with gate:
                    answer = await client.post(server.url, content=bodies[index % len(bodies)], headers=headers)
                    return index % len(bodies), answer.status_code, answer.headers, answer.content

            return await asyncio.gather(*(one(index) for index in range(count)))

    return asyncio.run(run())


def test_masks_are_those_of_one_process_and_requests_run_together(server, bearer, encoded, right):
    """Byte for byte, bad ones among them; and the replicas have run batches of more than one."""
    from ray import serve

    answers = flood(server, [*encoded, b"no picture"], 140, 8, bearer)
    for which, status, _, content in answers:
        if which < len(encoded):
            assert (status, content) == (200, right[which])
        else:
            assert status == 422
    handle = serve.get_app_handle("segdeploy")
    seen = [handle.batch_sizes.remote().result(timeout_s=20) for _ in range(6)]
    assert max(size for sizes in seen for size in sizes) > 1


def test_a_full_queue_is_503_with_when_to_come_again(server, bearer, encoded, right):
    """More than there is room for: each is answered, with its mask or with 503 and Retry-After."""
    answers = flood(server, encoded, 300, 300, bearer)
    full = [one for one in answers if one[1] == 503]
    assert full
    assert {one[1] for one in answers} == {200, 503}
    assert any(one[2].get("retry-after") == "1" for one in full)
    assert all(content == right[which] for which, status, _, content in answers if status == 200)


def test_tritons_client_is_answered(server, bearer, encoded, right):
    """Health, metadata and inference, by the binary extension and in JSON, of one picture and of several."""
    client_of = pytest.importorskip("tritonclient.http", reason="tritonclient is not installed")
    client = client_of.InferenceServerClient(server.base.removeprefix("http://"))
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("tiny")
    assert client.get_server_metadata(headers=bearer)["extensions"] == ["binary_tensor_data"]
    assert client.get_model_metadata("tiny", headers=bearer)["inputs"][0]["datatype"] == "BYTES"
    for count in (1, 3):
        tensor = client_of.InferInput("image", [count], "BYTES")
        tensor.set_data_from_numpy(np.array(encoded[:count], dtype=np.object_), binary_data=True)
        wanted = client_of.InferRequestedOutput("mask", binary_data=True)
        got = client.infer("tiny", [tensor], outputs=[wanted], request_id="7", headers=bearer)
        assert list(got.as_numpy("mask")) == right[:count]
        assert got.get_response()["id"] == "7"
    tensor.set_data_from_numpy(np.array([encoded[0], b"none", encoded[1]], dtype=np.object_), binary_data=True)
    with pytest.raises(
        Exception,
        match="picture 2 of 3",
    ):
        client.infer("tiny", [tensor], outputs=[wanted], headers=bearer)
    with pytest.raises(Exception, match="token"):
        client.infer("tiny", [tensor], outputs=[wanted])
    client.close()


def test_a_replica_whose_model_breaks_is_replaced(server, onnx_artifact, tmp_path, monkeypatch):
    """Its health check runs the model and fails; another one comes, which answers."""
    from ray import serve

    from segdeploy.serve import ray_app

    begun, broken = tmp_path / "begun", tmp_path / "broken"

    class Breaking(ray_app.Replica):
        def __init__(self, settings):
            ray_app.HEALTH_PERIOD_S = 0.0  # in its own process
            super().__init__(settings)
            session, run = self._predictor._session, self._predictor._session.run

            def breaking(*args, **words):
                if broken.exists() and broken.read_text() == str(os.getpid()):
                    raise RuntimeError("broken")
                return run(*args, **words)

            session.run = breaking
            with begun.open("a") as file:
                file.write(f"{os.getpid()}\n")

    monkeypatch.setattr(ray_app, "Replica", Breaking)
    monkeypatch.setattr(ray_app, "HEALTH_PERIOD_S", 0.3)
    application = ray_app.build({"artifact": str(onnx_artifact.folder), "name": "breaking"})
    handle = serve.run(application, name="breaking", route_prefix="/breaking")
    try:
        (first,) = begun.read_text().split()
        broken.write_text(first)
        deadline = time.monotonic() + 60
        while len(processes := begun.read_text().split()) < 2:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        assert processes[1] != first
        assert handle.batch_sizes.remote().result(timeout_s=20) == {}
    finally:
        serve.delete("breaking")


def test_without_the_token_nothing_is_answered_but_health(server, bearer, encoded):
    """No token and another one are 401; /ping is open; what there is not is 404."""
    with httpx.Client(trust_env=False) as client:
        assert client.post(server.url, content=encoded[0]).status_code == 401
        assert client.post(server.url, content=encoded[0], headers={"Authorization": "Bearer x"}).status_code == 401
        assert client.get(server.base + "/ping").json() == {"status": "Healthy"}
        assert client.get(server.base + "/v2/models/../x", headers=bearer).status_code == 404
        assert client.get(server.url, headers=bearer).status_code == 405
