import pytest

from segdeploy.base.errors import InputError
from segdeploy.export.timing_cache import check_cache, default_cache, timing_cache


class Cache:
    """A timing cache of a GPU: ``GPU|what was measured``."""

    def __init__(self, content):
        self.content = content

    def serialize(self):
        return memoryview(self.content)


class Config:
    """A builder configuration that takes the caches of its own GPU only, as TensorRT does."""

    def __init__(self):
        self.used = None

    def create_timing_cache(self, data):
        return None if data.startswith(b"damaged") else Cache(data or b"L4|")

    def set_timing_cache(self, cache, ignore_mismatch):
        assert ignore_mismatch is False
        if not cache.content.startswith(b"L4|"):
            return False
        self.used = cache
        return True

    def build(self):
        self.used.content += b"measured,"


def test_it_grows_from_build_to_build(tmp_path):
    """What one build measured is there for the next; folders are made."""
    path = tmp_path / "a" / "b.timing"
    for expected in (b"L4|measured,", b"L4|measured,measured,"):
        config = Config()
        with timing_cache(config, path):
            config.build()
        assert path.read_bytes() == expected
    assert [one.name for one in path.parent.iterdir()] == ["b.timing"]


@pytest.mark.parametrize("content", [b"A10|measured,", b"damaged", b""])
def test_what_does_not_fit_is_begun_anew(tmp_path, content):
    """Of another GPU, damaged or empty: the build goes on without it and writes a right one."""
    path = tmp_path / "b.timing"
    path.write_bytes(content)
    config = Config()
    with timing_cache(config, path):
        config.build()
    assert path.read_bytes() == b"L4|measured,"


def test_a_failed_build_leaves_the_old_one(tmp_path):
    """Only a finished build is kept."""
    path = tmp_path / "b.timing"
    path.write_bytes(b"L4|old,")
    config = Config()
    with pytest.raises(ZeroDivisionError), timing_cache(config, path):
        config.build()
        raise ZeroDivisionError
    assert path.read_bytes() == b"L4|old,"


def test_an_engine_is_worth_more_than_its_cache(tmp_path):
    """A cache that cannot be written does not fail a build that is done."""
    (tmp_path / "file").write_text("")
    config = Config()
    with timing_cache(config, tmp_path / "file" / "b.timing"):
        config.build()


def test_where_it_lies(tmp_path, monkeypatch):
    """In the user's cache folder, a file for each GPU and version."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_cache("11.4", "NVIDIA L40S") == tmp_path / "segdeploy" / "tensorrt-11.4-nvidia-l40s.timing"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "me"))
    assert default_cache("10.9", "a/b").parent == tmp_path / "me" / ".cache" / "segdeploy"
    assert default_cache("10.9", "a/b").name == "tensorrt-10.9-a-b.timing"


def test_a_place_that_cannot_be_written(tmp_path):
    """A folder, and a file where a folder should be, are refused; a file that is not there yet is not."""
    (tmp_path / "file").write_text("")
    check_cache(tmp_path / "file")
    check_cache(tmp_path / "new" / "folder" / "b.timing")
    for path in (tmp_path, tmp_path / "file" / "b.timing"):
        with pytest.raises(InputError, match="--timing-cache"):
            check_cache(path)
