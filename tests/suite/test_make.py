import sys

import pytest

from segdeploy.artifact.folder import Artifact
from segdeploy.base.errors import BackendError, InputError
from segdeploy.bench.result import BenchSettings
from segdeploy.bench.run import Missing
from segdeploy.bench.variants import Variant
from segdeploy.suite import make
from segdeploy.suite.make import Wanted, make_suite, measured_suite
from segdeploy.suite.plan import Recipe, Suite

pytest.importorskip("torch")
pytest.importorskip("onnx")

TINY = Suite("tiny", "none")

# What ``segdeploy export`` leaves, without its work; int8 fails with a message, fp16 without one.
EXPORTER = """
import pathlib, sys
sys.path[:0] = {path}
from support.bench import manifest, write_tiny_onnx
from segdeploy.artifact.folder import write_artifact
words = sys.argv[1:]
with open({log!r}, "a") as log:
    print(*words, file=log)
value = lambda name: words[words.index(name) + 1]
if value("--precision") == "int8":
    raise SystemExit(print("noise\\nerror: expected pictures; got none", file=sys.stderr) or 1)
if value("--precision") == "fp16":
    raise SystemExit(print("Killed", file=sys.stderr) or 137)
import msgspec
def write(folder):
    write_tiny_onnx(folder)
    one = manifest(value("--name"))
    return msgspec.structs.replace(one, lineage=msgspec.structs.replace(one.lineage, checkpoint_sha256={sha256!r}))
write_artifact(pathlib.Path(value("--out")) / value("--name") / "onnx-fp32", write)
"""


@pytest.fixture
def run_suite(tmp_path, checkpoint_path, request):
    """Makes the suite of the tiny checkpoint, in ONNX, with a stand-in for the export; gives the rows and what was run."""
    from segdeploy.base.files import sha256_file

    log = tmp_path / "log"
    script = tmp_path / "exporter.py"
    paths = [str(request.config.rootpath / "tests"), str(request.config.rootpath)]
    script.write_text(EXPORTER.format(path=paths, log=str(log), sha256=sha256_file(checkpoint_path)))

    def run(**changes):
        log.write_text("")
        wanted = Wanted(tmp_path / "work", **{"size": (32, 48), "batches": (1,), "gpu": False, "formats": ("onnx",)} | changes)
        said = []
        found = make_suite(TINY, wanted, checkpoint_path, said.append, [sys.executable, str(script)])
        return found, log.read_text().splitlines(), said

    return run


def test_every_export_is_a_row_and_what_fails_has_its_reason(run_suite):
    """Eager in its ways first; then what was made, plain and restructured; then what was not, with the last error."""
    found, _, _ = run_suite()
    eager = [(one.manifest.format, getattr(one, "variation", None)) for one in found[:4]]
    assert eager == [("eager", None), ("eager", "channels_last"), ("eager", "compile"), ("eager", "tf32")]
    assert [one.manifest.name for one in found[4:6]] == ["tiny", "tiny-plain"]
    assert [(one.model, one.precision) for one in found[6:]] == [
        ("tiny", "fp16"), ("tiny-plain", "fp16"), ("tiny", "int8"), ("tiny-plain", "int8"),
    ]  # fmt: skip
    assert found[8].reason == "expected pictures; got none"
    assert found[6].reason == "the export ended with exit status 137; its last words: Killed"


def test_what_is_there_is_not_exported_again(run_suite):
    """Only what failed is tried again; another size, or an altered file, is another export."""
    _, first, _ = run_suite()
    found, second, said = run_suite()
    assert len(first) == 6
    assert [line for line in second if "--precision fp32" in line] == []
    assert len(second) == 4
    assert sum(text.startswith("there already") for text in said) == 2
    assert [one.manifest.name for one in found[4:6]] == ["tiny", "tiny-plain"]
    assert len(run_suite(size=(64, 48))[1]) == 6
    found[4].model_path.write_bytes(b"altered")
    assert len(run_suite(size=(64, 48))[1]) == 5


def test_the_export_is_told_size_batch_and_graph(run_suite):
    """The optimum of several batches is the middle one; the plain graph is asked for by its option."""
    _, run, _ = run_suite(batches=(1, 8, 32))
    assert all("--shape 32x48 --batch 1:8:32 " in line for line in run)
    assert ["--no-restructure" in line for line in run] == [False, True] * 3
    assert "--batch 1 " in run_suite()[1][0]


def test_with_a_gpu_onnx_has_a_row_on_the_cpu_too(run_suite):
    """And PyTorch's own format is compiled for the GPU."""
    found, _, _ = run_suite(gpu=True)
    assert [one.variation for one in found[4:8] if isinstance(one, Variant)] == ["cpu", "cpu"]
    maker = make._Maker(TINY, Wanted(None, (32, 32), (1,), gpu=True), found[0], (), print, ())
    assert maker._words(Recipe("pt2", "fp32", restructured=True), "x")[-2:] == ["--target", "cuda"]


def test_what_the_machine_cannot_make_is_refused_before_any_work(run_suite, monkeypatch):
    """A format whose packages are missing costs no process."""

    def refuse(fmt, options):
        raise BackendError(expected="a compiler", got="none", fix="install one")

    monkeypatch.setattr(make, "check_export", refuse)
    found, run, _ = run_suite()
    assert run == []
    assert isinstance(found[0], Artifact)
    assert all(isinstance(one, Missing) and "a compiler" in one.reason for one in found[4:])
    assert len(found) == 4 + 6


def test_random_weights_are_calibrated_on_made_pictures(tmp_path, checkpoint_path, monkeypatch):
    """Nobody trained it: a lower precision is made of all of it, on seeded pictures."""
    monkeypatch.setattr(make, "write_random_checkpoint", lambda config, path: path.write_bytes(checkpoint_path.read_bytes()))
    seen = []
    monkeypatch.setattr(make._Maker, "make", lambda self, recipe: seen.append(self) or Missing("", "onnx", "fp32", None, "no"))
    make_suite(TINY, Wanted(tmp_path, (32, 32), (1,), gpu=False), None, print)
    int8, fp32 = (seen[0]._words(Recipe("onnx", one, restructured=True), "x") for one in ("int8", "fp32"))
    assert int8[-4:] == ["--calib", str(tmp_path / "pictures"), "--max-miou-drop", "100"]
    assert "--calib" not in fp32
    assert len(list((tmp_path / "pictures").iterdir())) == 4


@pytest.mark.parametrize(("gpu", "batches"), [(None, (1,)), ("a GPU", (1, 8, 32))])
def test_batches_and_size_are_the_suites_by_default(monkeypatch, gpu, batches):
    """One image on a CPU; three batches on a GPU, unless the CPU was asked for; what the user says goes before."""
    monkeypatch.setattr(make, "local_gpu", lambda: gpu)
    monkeypatch.setattr(make, "make_suite", lambda suite, wanted, checkpoint, say: [wanted])

    def settings(**changes):
        return measured_suite(
            "upernet-r18", BenchSettings(**changes), work=None, checkpoint=None, formats=(), data=None, say=print
        )

    found, (wanted,) = settings()
    assert (found.shapes, found.batch, wanted.gpu) == (((512, 512),), batches, gpu is not None)
    assert settings(device="cpu")[0].batch == (1,)
    assert settings(batch=(4,), shapes=((64, 64),))[0].batch == (4,)
    with pytest.raises(InputError, match="one --shape"):
        settings(shapes=((64, 64), (32, 32)))
