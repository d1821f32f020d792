"""What ``pack --to ray`` writes, held against Ray's own schema and KubeRay's structure."""

from __future__ import annotations

import asyncio
import hashlib
import stat
from typing import Annotated, Literal

import msgspec
import numpy as np
import pytest
from click.testing import CliRunner

from segdeploy.base.errors import ArtifactError, InputError
from segdeploy.cli.main import cli
from segdeploy.cli.serve_ray import parse_replicas
from segdeploy.images.label_png import encode_png
from segdeploy.serve.ray_app import HEALTH_PERIOD_S, RaySettings, fetched
from segdeploy.serve.ray_config import pack_ray, ray_service
from segdeploy.serve.request import Request

yaml = pytest.importorskip("yaml", reason="PyYAML is not installed")
schema = pytest.importorskip("ray.serve.schema", reason="ray is not installed")
SETTINGS = RaySettings("/models/tiny", "Tiny_1", min_replicas=1, max_replicas=3, cpus=2, gpus=1)


def test_both_files_hold_the_same_config_and_the_tokens_hash_alone(onnx_artifact, copied, tmp_path):
    """Ray's schema takes the config; its arguments are settings again; the token is in a file for its owner alone."""
    made = pack_ray(copied(onnx_artifact), SETTINGS, image="reg/seg:1", out=tmp_path / "out", unverified=True)
    config = schema.ServeDeploySchema.model_validate(yaml.safe_load(made.config.read_text()))
    (application,) = config.applications
    found = msgspec.convert(application.args, RaySettings)
    token = made.header_file.read_text().strip().removeprefix("Authorization: Bearer ")
    assert found == msgspec.structs.replace(SETTINGS, token_sha256=hashlib.sha256(token.encode()).hexdigest())
    assert stat.S_IMODE(made.header_file.stat().st_mode) == 0o600
    assert token not in made.config.read_text() + made.manifest.read_text()

    service = yaml.safe_load(made.manifest.read_text())
    assert (service["apiVersion"], service["kind"], service["metadata"]["name"]) == ("ray.io/v1", "RayService", "tiny-1")
    assert service["spec"]["serveConfigV2"] == made.config.read_text()
    cluster = service["spec"]["rayClusterConfig"]
    assert cluster["enableInTreeAutoscaling"] is True
    (group,) = cluster["workerGroupSpecs"]
    assert (group["replicas"], group["minReplicas"], group["maxReplicas"]) == (1, 1, 3)
    for template in (group["template"], cluster["headGroupSpec"]["template"]):
        (container,) = template["spec"]["containers"]
        assert container["image"] == "reg/seg:1"
        assert template["spec"]["securityContext"]["runAsNonRoot"] is True
    assert group["template"]["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "1"


@pytest.mark.parametrize(("name", "at"), [("a b", "/m"), ("...", "/m"), ("x" * 60, "/m"), ("tiny", "models/tiny")])
def test_names_and_places_that_no_cluster_takes_are_refused(onnx_artifact, copied, tmp_path, name, at):
    """Before anything is written."""
    settings = msgspec.structs.replace(SETTINGS, name=name, artifact=at)
    with pytest.raises(InputError):
        pack_ray(copied(onnx_artifact), settings, image="i", out=tmp_path / "out", unverified=True)
    assert not (tmp_path / "out").exists()


def test_what_never_passed_is_packed_only_on_demand(onnx_artifact, tmp_path):
    """As for the other servers."""
    with pytest.raises(ArtifactError, match="--unverified"):
        pack_ray(onnx_artifact, SETTINGS, image="i", out=tmp_path)


def test_an_artifact_is_fetched_from_an_address(onnx_artifact, tmp_path, monkeypatch):
    """The files of a bucket come whole, for as long as they are used; an address of nothing is one line, and leaves nothing."""
    copies = tmp_path / "copies"
    copies.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(copies))
    with fetched(onnx_artifact.folder.as_uri()) as folder:
        assert {one.name: one.read_bytes() for one in folder.iterdir()} == {
            one.name: one.read_bytes() for one in onnx_artifact.folder.iterdir()
        }
        with pytest.raises(ArtifactError, match="nowhere"), fetched((tmp_path / "nowhere").as_uri()):
            pass
        assert list(copies.iterdir()) == [folder]  # of which another process sees that it is in use
    assert not any(copies.iterdir())
    with fetched(str(onnx_artifact.folder)) as folder:
        assert folder == onnx_artifact.folder
    assert folder.is_dir()


def test_a_copy_that_a_kill_left_is_removed_by_the_next(onnx_artifact, tmp_path, monkeypatch):
    """Nobody holds its lock any more."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    (tmp_path / "segdeploy-artifact-left").mkdir()
    with fetched(onnx_artifact.folder.as_uri()) as folder:
        assert list(tmp_path.iterdir()) == [folder]


def test_a_replica_whose_model_breaks_says_so_and_one_that_ends_leaves_no_copy(onnx_artifact, tmp_path, monkeypatch):
    """The health check runs the model unless it has just answered; its copy of the artifact goes with it."""
    from segdeploy.serve import ray_app

    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setenv("SEGDEPLOY_WORKERS", "1")
    replica = ray_app.Replica({"artifact": onnx_artifact.folder.as_uri(), "name": "tiny"})
    asyncio.run(replica.check_health())
    assert len(list(tmp_path.iterdir())) == 1

    def broken(*_, **__):
        raise RuntimeError("broken")

    monkeypatch.setattr(replica._predictor._session, "run", broken)
    asyncio.run(replica.check_health())  # it was just warmed up
    monkeypatch.setattr(ray_app, "HEALTH_PERIOD_S", 0.0)
    assert replica._run([Request(encode_png(np.zeros((64, 64, 3), np.uint8)))])[0].status == 500
    with pytest.raises(RuntimeError, match="broken"):
        asyncio.run(replica.check_health())
    replica.__del__()
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(("least", "most"), [(1, 3), (2, 2)])
def test_replicas_scale_within_their_bounds(least, most):
    """As Serve reads them: between the two by load, or as many as are asked for."""
    from segdeploy.serve.ray_app import build

    settings = msgspec.structs.replace(SETTINGS, min_replicas=least, max_replicas=most)
    config = build(msgspec.to_builtins(settings))._bound_deployment._deployment_config
    if least == most:
        assert (config.autoscaling_config, config.num_replicas) == (None, least)
    else:
        assert (config.autoscaling_config.min_replicas, config.autoscaling_config.max_replicas) == (least, most)
        assert config.autoscaling_config.get_target_ongoing_requests() == 2 * settings.batch_size
    assert config.health_check_period_s == HEALTH_PERIOD_S


class Metadata(msgspec.Struct, forbid_unknown_fields=True):
    """Of Kubernetes."""

    name: str


class Port(msgspec.Struct, forbid_unknown_fields=True, rename="camel"):
    """Of a container: a name of at most 15 letters."""

    name: Annotated[str, msgspec.Meta(pattern="^[a-z0-9]([a-z0-9-]{0,13}[a-z0-9])?$")]
    container_port: Annotated[int, msgspec.Meta(ge=1, le=65535)]


class Resources(msgspec.Struct, forbid_unknown_fields=True):
    """Of a container: quantities as text."""

    limits: dict[str, str]
    requests: dict[str, str]


class Container(msgspec.Struct, forbid_unknown_fields=True, rename="camel"):
    """As far as it is used here."""

    name: str
    image: str
    env: list[dict[str, str]]
    security_context: dict[str, object]
    resources: Resources
    ports: list[Port] = []


class PodSpec(msgspec.Struct, forbid_unknown_fields=True, rename="camel"):
    """Likewise."""

    security_context: dict[str, object]
    automount_service_account_token: bool
    containers: Annotated[list[Container], msgspec.Meta(min_length=1)]


class Pod(msgspec.Struct, forbid_unknown_fields=True):
    """Of a template."""

    spec: PodSpec


class Head(msgspec.Struct, forbid_unknown_fields=True, rename="camel"):
    """HeadGroupSpec; what is no text in rayStartParams is refused by Kubernetes."""

    ray_start_params: dict[str, str]
    template: Pod


class Workers(msgspec.Struct, forbid_unknown_fields=True, rename="camel"):
    """WorkerGroupSpec."""

    group_name: str
    replicas: int
    min_replicas: int
    max_replicas: int
    ray_start_params: dict[str, str]
    template: Pod


class Cluster(msgspec.Struct, forbid_unknown_fields=True, rename="camel"):
    """RayClusterSpec."""

    ray_version: str
    enable_in_tree_autoscaling: bool
    head_group_spec: Head
    worker_group_specs: list[Workers]


class ServiceSpec(msgspec.Struct, forbid_unknown_fields=True):
    """RayServiceSpec."""

    config: str = msgspec.field(name="serveConfigV2")
    cluster: Cluster = msgspec.field(name="rayClusterConfig")


class Service(msgspec.Struct, forbid_unknown_fields=True, rename="camel"):
    """RayService, of apis/ray/v1 of KubeRay: names, types, and what is required, for the fields that are written here."""

    api_version: Literal["ray.io/v1"]
    kind: Literal["RayService"]
    metadata: Metadata
    spec: ServiceSpec


@pytest.mark.parametrize("gpus", [0, 1])
def test_the_manifest_is_built_as_kuberay_has_it(gpus):
    """No field that its types do not have, none missing that they require, and no number where they want text."""
    settings = msgspec.structs.replace(SETTINGS, gpus=gpus)
    written = yaml.safe_load(yaml.safe_dump(ray_service("tiny-1", settings, "applications: []", "i:1")))
    found = msgspec.convert(written, Service)
    (workers,) = found.spec.cluster.worker_group_specs
    assert ("nvidia.com/gpu" in workers.template.spec.containers[0].resources.limits) == bool(gpus)


def test_pack_writes_them_and_says_what_is_next(onnx_artifact, copied, tmp_path):
    """Where the artifact lies in the image, and how to ask; not the token."""
    out = tmp_path / "out"
    words = ["pack", copied(onnx_artifact).folder, "--to", "ray", "--out", out, "--unverified", "--workers", 2]
    ended = CliRunner().invoke(cli, list(map(str, words)))
    assert ended.exit_code == 0, ended.output
    assert "COPY" in ended.output
    assert {one.name for one in out.iterdir()} == {"tiny.serve.yaml", "tiny.rayservice.yaml", "tiny.authorization"}
    assert (out / "tiny.authorization").read_text().split()[-1] not in ended.output


@pytest.mark.parametrize(("text", "bounds"), [("1", (1, 1)), ("3", (3, 3)), ("1:4", (1, 4))])
def test_replicas_are_a_number_or_bounds(text, bounds):
    """One number is both."""
    assert parse_replicas(text) == bounds


@pytest.mark.parametrize("text", ["", "0", "0:2", "3:2", "x", "1:", ":2", "-1", "1:2:3", "99999"])
def test_other_replicas_are_refused(text):
    """In one line."""
    with pytest.raises(InputError, match="--replicas"):
        parse_replicas(text)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["serve", "x", "--engine", "ray", "--workers", "2"], "--workers is for --engine torchserve, not ray"),
        (["serve", "x.mar", "--replicas", "2"], "--replicas is for --engine ray, not torchserve"),
        (["predict", "x.png", "--out", "o", "--processes", "2"], "--processes is for --engine ray, not local"),
        (["predict", "x.png", "--out", "o", "--engine", "ray", "--url", "http://x/"], "--url is for --engine local, not ray"),
        (["eval", "x", "--journal", "j"], "--journal is for --engine ray, not local"),
    ],
)
def test_options_of_another_engine_are_refused(words, told):
    """None is taken and then does nothing."""
    ended = CliRunner().invoke(cli, words)
    assert ended.exit_code == 2
    assert told in ended.output
