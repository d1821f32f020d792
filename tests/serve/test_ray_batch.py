"""Ray Data: what one process gives, and never twice."""

from __future__ import annotations

import json

import numpy as np
import pytest
from click.testing import CliRunner

from segdeploy.cli.main import cli
from segdeploy.images.dataset import find_samples
from segdeploy.runtime.evaluation import tally
from segdeploy.runtime.files import Drawing, find_jobs, predict_files
from segdeploy.runtime.open import open_session

pytest.importorskip("ray", reason="ray is not installed")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def address():
    """A cluster of one CPU that the module's tests share."""
    from ray.cluster_utils import Cluster

    cluster = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False, "object_store_memory": 100 << 20}
    )
    yield cluster.address
    cluster.shutdown()


def test_predict_gives_the_same_bytes_and_does_nothing_twice(address, onnx_artifact, encoded, tmp_path, monkeypatch):
    """A file that is no picture is a row; a second run does what is missing or was cut off, and no more."""
    from segdeploy.serve import ray_batch
    from segdeploy.serve.ray_batch import JOURNAL_NAME, Spread, predict_in_ray

    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for index, body in enumerate(encoded):
        (pictures / f"{index}.png").write_bytes(body)
    (pictures / "bad.png").write_bytes(b"no picture")
    here, there = tmp_path / "here", tmp_path / "there"
    with open_session(onnx_artifact, "cpu", 1) as session:
        expected = predict_files(session, find_jobs([pictures], here), Drawing())
    jobs = find_jobs([pictures], there)
    spread = Spread(device="cpu", threads=1, address=address)
    outcome = predict_in_ray(onnx_artifact, jobs, Drawing(), there, spread)
    made = {one.name: one.read_bytes() for one in there.glob("*.png")}
    assert made == {one.name: one.read_bytes() for one in here.glob("*.png")}
    assert len(made) == 2 * len(encoded)
    assert [one.shares for one in outcome.done] == [one.shares for one in expected.done]
    assert list(map(str, outcome.problems)) == list(map(str, expected.problems))
    assert len(outcome.failed) == 1

    # A result that is gone, and a line that a kill cut off.
    (there / "0_mask.png").unlink()
    journal = there / JOURNAL_NAME
    lines = journal.read_bytes().split(b"\n")
    last = next(
        index for index in range(len(lines) - 1, 0, -1) if b'"source":"' in lines[index] and b"0.png" not in lines[index]
    )
    lines[last] = lines[last][:-40]
    journal.write_bytes(b"\n".join(lines))
    asked = []
    spread_out = ray_batch._spread_out
    monkeypatch.setattr(
        ray_batch,
        "_spread_out",
        lambda label, items, *rest, **more: (asked.extend(items), spread_out(label, items, *rest, **more))[1],
    )
    again = predict_in_ray(onnx_artifact, jobs, Drawing(), there, spread)
    assert len(asked) == 3  # those two, and the bad one
    assert again.done == outcome.done
    assert {one.name: one.read_bytes() for one in there.glob("*.png")} == made

    asked.clear()
    monkeypatch.setattr(ray_batch, "_spread_out", lambda label, items, *rest, **more: asked.extend(items) or iter(()))
    with pytest.raises(KeyError):  # all are to do: with other options nothing is done already
        predict_in_ray(onnx_artifact, jobs, Drawing(opacity=0.3), there, spread)
    assert len(asked) == len(jobs)


def test_eval_counts_the_same_and_nothing_twice(address, onnx_artifact, labelled_root, tmp_path, monkeypatch):
    """The very matrix of one process; with a journal that is whole, no worker is started."""
    from segdeploy.serve import ray_batch
    from segdeploy.serve.ray_batch import Spread, tally_in_ray

    samples = find_samples(labelled_root, "val")
    expected = tally(onnx_artifact, samples, device="cpu", threads=1)
    spread = Spread(device="cpu", threads=1, address=address)
    journal = tmp_path / "journal.jsonl"
    found = tally_in_ray(onnx_artifact, samples, spread, journal=journal)
    assert np.array_equal(found.matrix.counts, expected.matrix.counts)
    assert found.matrix.images == expected.matrix.images == len(samples)
    monkeypatch.setattr(ray_batch, "ray_cluster", None)
    again = tally_in_ray(onnx_artifact, samples, spread, journal=journal)
    assert np.array_equal(again.matrix.counts, expected.matrix.counts)


def test_both_commands_take_it(address, onnx_artifact, encoded, labelled_root, tmp_path):
    """``--engine ray --address`` of predict and eval, as typed."""
    (tmp_path / "x.png").write_bytes(encoded[0])
    spread = ["--engine", "ray", "--address", address, "--threads", "1"]
    predicted = CliRunner().invoke(
        cli, ["predict", str(onnx_artifact.folder), str(tmp_path / "x.png"), "--out", str(tmp_path), *spread]
    )
    assert predicted.exit_code == 0, predicted.output
    assert (tmp_path / "x_mask.png").is_file()
    words = ["eval", str(onnx_artifact.folder), "--data", str(labelled_root), "--threads", "1", "--json"]
    told = []
    for name, more in (("here", []), ("there", spread[:4])):
        ended = CliRunner().invoke(cli, [*words, str(tmp_path / f"{name}.json"), *more])
        assert ended.exit_code == 0, ended.output
        told.append(json.loads((tmp_path / f"{name}.json").read_text()))
    assert told[0]["classes"] == told[1]["classes"]
    assert told[0]["miou"] == told[1]["miou"]
