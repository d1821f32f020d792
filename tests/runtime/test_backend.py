import pkgutil
from typing import get_args

import pytest

import segdeploy.export
import segdeploy.runtime.backends
from segdeploy.artifact.manifest import BACKENDS, FORMATS, Format, Precision
from segdeploy.base.errors import BackendError
from segdeploy.export.exporter import Exporter, find_exporter
from segdeploy.runtime.backend import Backend, find_backend, running_versions


def files(package):
    return {module.name for module in pkgutil.iter_modules(package.__path__)}


@pytest.mark.parametrize("name", BACKENDS)
def test_a_backend_is_two_files(name):
    """Each name has its file that runs, and each but the checkpoint's its file that makes, with a description of that name."""
    assert name in files(segdeploy.runtime.backends)
    assert isinstance(find_backend(name), Backend)
    assert find_backend(name).name == name
    if name != "eager":
        assert name in files(segdeploy.export)
        assert isinstance(find_exporter(name), Exporter)
        assert find_exporter(name).name == name


def test_no_other_file_holds_a_backend():
    """A description that no name leads to would never be found."""
    import importlib

    for package, attribute, names in (
        (segdeploy.runtime.backends, "BACKEND", BACKENDS),
        (segdeploy.export, "EXPORTER", FORMATS),
    ):
        holders = {name for name in files(package) if hasattr(importlib.import_module(f"{package.__name__}.{name}"), attribute)}
        assert holders == set(names)


def test_the_names_are_those_of_the_manifest():
    """One list: what a manifest may say is what can be opened."""
    assert set(BACKENDS) == set(get_args(Format)) == {"eager", *FORMATS}
    assert all(set(find_exporter(name).precisions) <= set(get_args(Precision)) for name in FORMATS)
    assert all("fp32" in find_exporter(name).precisions for name in FORMATS)


@pytest.mark.parametrize("find", [find_backend, find_exporter])
@pytest.mark.parametrize("name", ["caffe", "exporter", "", "../onnx"])
def test_an_unknown_name(find, name):
    """The known ones are listed; a module that is no backend is none."""
    with pytest.raises(BackendError, match=r"out of .*torchscript, pt2, onnx, .*; choose one of these"):
        find(name)


def test_the_versions_are_those_that_the_backends_name():
    """A figure is kept with the version of everything that any backend runs on."""
    from segdeploy.base.versions import version_of

    found = running_versions()
    for name in BACKENDS:
        for package in find_backend(name).packages:
            assert found.get(package) == version_of(package)
    assert found["numpy"] == version_of("numpy")
