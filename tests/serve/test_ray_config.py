"""What ``pack --to ray`` writes, held against Ray's own schema and KubeRay's structure."""

from __future__ import annotations

import hashlib
import stat

import msgspec
import pytest
from click.testing import CliRunner

from segdeploy.base.errors import ArtifactError, InputError
from segdeploy.cli.main import cli
from segdeploy.cli.serve_ray import parse_replicas
from segdeploy.serve.ray_app import RaySettings, fetch
from segdeploy.serve.ray_config import pack_ray

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
    """The files of a bucket come whole; an address of nothing is one line, and leaves nothing."""
    copies = tmp_path / "copies"
    copies.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(copies))
    folder = fetch(onnx_artifact.folder.as_uri())
    assert {one.name: one.read_bytes() for one in folder.iterdir()} == {
        one.name: one.read_bytes() for one in onnx_artifact.folder.iterdir()
    }
    with pytest.raises(ArtifactError, match="nowhere"):
        fetch((tmp_path / "nowhere").as_uri())
    assert list(copies.iterdir()) == [folder]


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
