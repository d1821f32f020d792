"""Opening a pt2 package: where it was made for, and what is said anywhere else."""

import subprocess
import sys
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch

from segdeploy.artifact.folder import Artifact
from segdeploy.base.errors import ArtifactError, BackendError, SegdeployError
from segdeploy.runtime import open_session
from segdeploy.runtime.backends.pt2 import processor


def changed(artifact, **changes):
    """The artifact with another target, toolchain or lineage in its manifest."""
    manifest = artifact.manifest
    parts = {part: msgspec.structs.replace(getattr(manifest, part), **values) for part, values in changes.items()}
    return Artifact(artifact.folder, msgspec.structs.replace(manifest, **parts))


def test_this_processor():
    """What the kernel says of the processor agrees."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    flags = next(line for line in lines if line.startswith(("flags", "Features"))).split()
    known = processor(torch)
    for name, flag in (("AVX2", "avx2"), ("AVX512", "avx512f"), ("AVX512_VNNI", "avx512_vnni"), ("AMX_TILE", "amx_tile")):
        assert (name in known) == (flag in flags)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"toolchain": {"torch": "2.14.1"}}, r"by torch .*; got one made by torch 2\.14\.1; .*"),
        ({"target": {"cpu": "x86_64 AVX9000"}}, "this processor .*; got one for x86_64 AVX9000; "),
        ({"target": {"cpu": "pdp11"}}, "this processor .*; got one for pdp11; "),
        ({"target": {"cpu": None}}, "got one for an unknown one; "),
    ],
)
def test_made_elsewhere(pt2_artifact, changes, words):
    """Another torch or another processor is refused before anything is loaded, with the command that makes a new one."""
    checkpoint, name = pt2_artifact.manifest.lineage.checkpoint, pt2_artifact.manifest.name
    with pytest.raises(ArtifactError, match=words) as caught:
        open_session(changed(pt2_artifact, **changes), "cpu")
    assert str(caught.value).endswith(f"build it here: segdeploy export {checkpoint} --to pt2 --name {name}")


def test_the_other_device(pt2_artifact, no_gpu):
    """A package for CUDA where there is none, and one for the CPU on CUDA: both name the command."""
    with pytest.raises(BackendError, match="a pt2 package for cuda; got one for cpu; .* --to pt2 .*--target cuda$"):
        open_session(pt2_artifact, "cuda")
    gpu = changed(pt2_artifact, target={"device": "cuda", "compute_capability": "sm89"})
    with pytest.raises(BackendError, match="a CUDA device .*; got none that PyTorch can see; .* --to pt2 --name tiny$"):
        open_session(gpu)
    with pytest.raises(BackendError, match="a pt2 package for cpu; got one for cuda"):
        open_session(gpu, "cpu")


def test_another_gpu(pt2_artifact, monkeypatch):
    """The architecture of the GPU is compared before the package is loaded."""
    from segdeploy.runtime.backends import pt2

    monkeypatch.setattr(pt2, "compute_capability", lambda torch: "sm90")
    gpu = changed(pt2_artifact, target={"device": "cuda", "compute_capability": "sm89"})
    with pytest.raises(ArtifactError, match=r"this GPU \(sm90\); got one for sm89; .* --target cuda$"):
        pt2.check_target(torch, gpu.manifest)


ALONE = """
import os, sys
os.environ["PATH"] = os.environ["CXX"] = "/nonexistent"
sys.modules["mmseg"] = sys.modules["mmengine"] = None
import numpy as np
from pathlib import Path
from segdeploy.artifact.folder import open_artifact
from segdeploy.runtime import open_session
with open_session(open_artifact(Path(sys.argv[1])), "cpu", threads=1) as session:
    np.save("logits.npy", session.run(np.load("image.npy"), logits=True).logits)
"""


def test_without_a_compiler(pt2_artifact, eager, tmp_path):
    """A machine that only runs packages needs neither mmseg nor a compiler."""
    image = np.random.default_rng(0).integers(0, 256, (2, 77, 50, 3), dtype=np.uint8)
    np.save(tmp_path / "image.npy", image)
    subprocess.run([sys.executable, "-c", ALONE, str(pt2_artifact.folder)], cwd=tmp_path, check=True)
    np.testing.assert_allclose(np.load(tmp_path / "logits.npy"), eager.run(image, logits=True).logits, atol=1e-4)


def test_a_damaged_package(pt2_artifact, copied):
    """A file that is no package is one line, though its hash is right."""
    artifact = copied(pt2_artifact)
    artifact.model_path.write_bytes(b"not a package")
    with pytest.raises(SegdeployError, match="--to pt2") as caught:
        open_session(artifact, "cpu")
    assert "\n" not in str(caught.value)


@pytest.mark.gpu
def test_on_a_gpu(export_tiny, gpu, eager, tmp_path):
    """A package for CUDA gives the model's logits there."""
    artifact = export_tiny("pt2", tmp_path / "cuda", targets=("cuda",))
    assert artifact.manifest.target.compute_capability == gpu.compute_capability
    image = np.random.default_rng(0).integers(0, 256, (2, 77, 50, 3), dtype=np.uint8)
    with open_session(artifact) as session:
        assert session.device.startswith("cuda")
        logits = session.run(image, logits=True).logits
    np.testing.assert_allclose(logits, eager.run(image, logits=True).logits, atol=1e-3)
