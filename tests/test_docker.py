"""docker/: what is written there without an engine to try it, held against what it speaks of."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from importlib.util import find_spec
from pathlib import Path

import pytest

from segdeploy.serve.metrics import METRICS

FOLDER = Path(__file__).parents[1] / "docker"
DOCKERFILES = sorted(FOLDER.glob("*.Dockerfile"))
yaml = pytest.importorskip("yaml", reason="PyYAML is not installed")


def read(name):
    return yaml.safe_load((FOLDER / name).read_text())


def exported_names():
    """Of the predictor's metrics, as Prometheus has them of each server, and of the servers' own.

    TorchServe declares its own, Ray's own panels ask for Serve's, and Triton's are those that its documentation names.
    """
    found = set()
    for metric in METRICS:
        found |= (
            {f"{metric.name}_{part}" for part in ("sum", "count", "bucket")} if metric.kind == "histogram" else {metric.name}
        )
    from segdeploy.serve.torchserve_config import metrics_text

    pytest.importorskip("ts", reason="torchserve is not installed")
    declared = yaml.safe_load(metrics_text())
    kinds = [*declared["ts_metrics"].values(), *declared["model_metrics"].values()]
    counters = {metric.name for metric in METRICS if metric.kind == "counter"}
    found |= {f"ray_{name}_total" if name in counters else f"ray_{name}" for name in found}
    ray = find_spec("ray")
    if ray is None:
        pytest.skip("ray is not installed")
    panels = Path(ray.submodule_search_locations[0]) / "dashboard/modules/metrics/dashboards/serve_dashboard_panels.py"
    for name in re.findall(r"ray_serve_\w+", panels.read_text()):
        found |= {name, name.replace("_bucket", "_sum"), name.replace("_bucket", "_count")}
    tritons = ("request_success", "count", "exec_count", "request_duration_us", "queue_duration_us")
    found |= {f"nv_inference_{name}" for name in tritons}
    return found | {one["name"] for kind in kinds for one in kind}


def test_the_dashboard_asks_for_metrics_that_there_are():
    """Every name in every expression; labels too, of the predictor's own."""
    panels = json.loads((FOLDER / "grafana/dashboards/segdeploy.json").read_text())["panels"]
    names = exported_names()
    seen = set()
    for panel in panels:
        assert panel["title"]
        assert panel["description"]
        for target in panel["targets"]:
            asked = set(re.findall(r"\b(?:ray_segdeploy|ray_serve|segdeploy|ts|nv)_\w+", target["expr"]))
            assert asked
            assert asked <= names, panel["title"]
            seen |= asked
            (label,) = re.findall(r"by \((\w+)", target["expr"])[:1] or [None]
            known = {one for metric in METRICS for one in metric.labels if metric.name in target["expr"]}
            known |= {"application"} if "ray_serve" in target["expr"] else set()
            assert label is None or label in known, panel["title"]
    assert {metric.name for metric in METRICS} <= {re.sub(r"_(sum|count|bucket)$", "", name) for name in seen}
    assert {f"ray_{metric.name}" for metric in METRICS} <= {re.sub(r"_(sum|count|bucket|total)$", "", name) for name in seen}


def test_panels_do_not_overlap():
    """Each has its place on Grafana's 24 columns."""
    panels = json.loads((FOLDER / "grafana/dashboards/segdeploy.json").read_text())["panels"]
    taken = [
        (x, y)
        for place in (panel["gridPos"] for panel in panels)
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(taken) == len(set(taken))
    assert all(x < 24 for x, _ in taken)
    assert len({panel["id"] for panel in panels}) == len(panels)


def test_compose_mounts_what_there_is_and_opens_loopback_only():
    """Files, the datasource and the scraped port agree; nothing is writable, privileged or open to the network."""
    compose = read("compose.yaml")
    for name, service in compose["services"].items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", ())), name
        sources = [volume.split(":")[0] for volume in service.get("volumes", ())]
        for source in sources:
            if source.startswith("./"):
                assert (FOLDER / source).exists(), source
            elif not source.startswith("../"):
                assert source in compose["volumes"]
        if "image" in service:
            assert re.fullmatch(r"\d+:\d+", service["user"]), name
            assert re.search(r":v?\d+\.\d+\.\d+$", service["image"]), name
    assert (FOLDER / compose["services"]["server"]["build"]["dockerfile"].removeprefix("docker/")).is_file()
    (job,) = read("prometheus.yml")["scrape_configs"]
    (target,) = job["static_configs"][0]["targets"]
    host, port = target.split(":")
    assert host in compose["services"]
    assert f"EXPOSE 8080 {port}" in (FOLDER / "cpu.Dockerfile").read_text()
    (source,) = read("grafana/provisioning/datasources/prometheus.yaml")["datasources"]
    assert source["url"] == "http://prometheus:9090"
    panels = json.loads((FOLDER / "grafana/dashboards/segdeploy.json").read_text())["panels"]
    assert {panel["datasource"]["uid"] for panel in panels} == {source["uid"]}
    (provider,) = read("grafana/provisioning/dashboards/segdeploy.yaml")["providers"]
    assert any(volume.split(":")[1] == provider["options"]["path"] for volume in compose["services"]["grafana"]["volumes"])


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.stem)
def test_an_image_is_nobody_and_says_how_it_is(path):
    """A user by number, a health check, and only files that the build is given."""
    text = path.read_text()
    assert re.search(r"^USER 10001:10001$", text, re.MULTILINE)
    assert "HEALTHCHECK" in text
    given = {line[1:] for line in (FOLDER.parent / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    for line in re.findall(r"^COPY (?!--from)(.+)$", text, re.MULTILINE):
        assert set(line.split()[:-1]) <= given, line
    extras = re.findall(r"'(?:\.|/src)\[([\w,-]+)\]'", text)
    assert extras
    project = (FOLDER.parent / "pyproject.toml").read_text()
    assert all(re.search(rf"^{extra} = ", project, re.MULTILINE) for found in extras for extra in found.split(","))


def test_the_build_is_given_code_alone():
    """Everything is left out, and what is let in again exists."""
    lines = [line for line in (FOLDER.parent / ".dockerignore").read_text().splitlines() if line and line[0] != "#"]
    assert lines[0] == "*"
    for line in lines[1:]:
        assert line.startswith("**/") or (FOLDER.parent / line[1:]).exists(), line
    assert not {"!data", "!exports", "!.venv", "!work_dirs", "!model_store", "!.git"} & set(lines)


@pytest.mark.parametrize(("status", "token", "expected"), [(200, "T", 0), (200, "other", 1), (503, "T", 1), (None, "T", 1)])
def test_the_health_check(tmp_path, status, token, expected):
    """0 with the token of a healthy server; 1 for a sick one, a wrong token, and none at all."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(status if self.headers["Authorization"] == "Bearer T" else 400)
            self.end_headers()

        def log_message(self, *_):
            pass

    header = tmp_path / "authorization"
    header.write_text(f"Authorization: Bearer {token}\n")
    code = f"import sys, pathlib; sys.path.insert(0, {str(FOLDER)!r}); import health; "
    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        port = server.server_address[1] if status else 9
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        code += f"sys.exit(health.main('http://127.0.0.1:{port}/ping', pathlib.Path({str(header)!r})))"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
        server.shutdown()
    assert done.returncode == expected


def test_an_onnx_artifact_is_answered_without_torch(onnx_artifact, tmp_path):
    """The predictor of an ONNX image imports nothing of PyTorch's family, nor TorchServe: all of them raise here."""
    import cv2
    import numpy as np

    picture = tmp_path / "x.png"
    cv2.imwrite(str(picture), np.full((40, 60, 3), 90, np.uint8))
    code = f"""
import sys
for name in ("torch", "torchvision", "mmseg", "mmengine", "mmcv", "ts", "onnx", "ray"):
    sys.modules[name] = None
from pathlib import Path
from segdeploy.serve.predictor import open_predictor
from segdeploy.serve.request import Request
body = Path({str(picture)!r}).read_bytes()
for query in ({{}}, {{"as": "json", "confidence": "1"}}, {{"as": "overlay"}}):
    (answer,) = open_predictor(Path({str(onnx_artifact.folder)!r}), None).answer([Request(body, query=query)])
    assert answer.status == 200, answer.body
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
