"""What a config stored in a checkpoint may name.

MMEngine's registries import whatever dotted name they do not know, and call it: ``dict(type='os.system', command=...)``
runs a command. Here names are looked up in what mmseg, mmcv and mmengine have registered, and nothing is imported for a
name's sake. A registered class with an argument that names a file or an address would open it (the ``class_weight`` of a
loss is fetched and unpickled), and some arguments are names of classes themselves (``padding_mode``), so that within a
model every string has to be a plain word. A config that the user passes is the user's own code: none of this concerns it.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Literal

from segdeploy.base.errors import ConfigError
from segdeploy.models.packages import load_mmseg

Kind = Literal["MODELS", "TASK_UTILS", "DATASETS", "TRANSFORMS"]

# Keys at any depth of a model that only begin a training: they are taken out before a model is built (see ``build``).
INITIAL_WEIGHTS = ("init_cfg", "pretrained")
# The scopes of the registries; mmcv registers in mmengine's.
_SCOPES = ("mmseg", "mmengine")
# Whose classes a name may mean. torch's own layers and optimisers are registered by mmcv and mmengine.
_PACKAGES = {"mmseg", "mmengine", "mmcv", "torch"}
# What is built below these keys is no module.
_KINDS: dict[str, Kind] = {
    "sampler": "TASK_UTILS",
    "assigner": "TASK_UTILS",
    "match_costs": "TASK_UTILS",
    "pipeline": "TRANSFORMS",
    "transforms": "TRANSFORMS",
    "dataset": "DATASETS",
    "datasets": "DATASETS",
}
# Registered, but made to fetch or open files, or to build what another package's config names.
_REACHES_OUT = {"TIMMBackbone", "VPD", "VPDDepthHead", "CLIPTextEncoder", "SideAdapterCLIPHead", "MultimodalEncoderDecoder"}
_WORD = re.compile(r"[A-Za-z0-9_+ -]*")
_TRUST = "if you trust its author, pass the config itself with --config FILE, whose code will run"

_imports_allowed: ContextVar[bool] = ContextVar("imports_allowed", default=True)


def registered(kind: Kind, name: object) -> type | None:
    """The class that mmseg, mmcv, mmengine or torch has under a name; None where there is none. Imports nothing for it.

    Args:
        kind: which of mmseg's registries, its parents included.
        name: ``Name``, ``mmseg.Name``, ``mmengine.Name``, or where a class lies (``mmseg.models.Name``), as configs in
            MMEngine's newer style have it.
    """
    load_mmseg()
    import mmseg.registry

    found = _find(getattr(mmseg.registry, kind), name) if isinstance(name, str) else None
    return found[1] if found else None


def checked_config(values: Mapping[str, Any], source: str) -> dict[str, Any]:
    """A config from a checkpoint, safe to build the model from.

    Whatever stands outside the model may keep names that nobody registered, as of a data set of the user's own: they are only
    ever looked up with ``registered``. But none may be such that MMEngine would import it.

    Args:
        values: the config as plain data.
        source: what to call the checkpoint in an error.

    Returns:
        The same, with classes of the model by their registered names. ``custom_imports`` is left out.

    Raises:
        ConfigError: it names something else; says where.
    """
    load_mmseg()
    kept = {key: value for key, value in values.items() if key != "custom_imports"}
    for key in ("model", "data_preprocessor"):
        if key in kept:
            kept[key] = checked_section(kept[key], "MODELS", key, source)
    for key, value in kept.items():
        if key not in ("model", "data_preprocessor"):
            _refuse_imports(value, str(key), source)
    return kept


def checked_section(value: Any, kind: Kind, place: str, source: str) -> Any:
    """A part of a config from a checkpoint that is about to be built: every ``type`` in it is a registered class.

    Args:
        value: the part.
        kind: what is wanted there. Below ``sampler``, ``pipeline``, ``dataset`` and the like it is what these hold.
        place: where it stands in the config, for messages.
        source: what to call the checkpoint in an error.

    Returns:
        A copy, with classes by their registered names.

    Raises:
        ConfigError: it names something else, or a file or address; says where.
    """
    if isinstance(value, Mapping):
        checked = {}
        # What it is comes before what it is given: that is the better thing to say of a command and its arguments.
        for key, part in sorted(value.items(), key=lambda item: item[0] != "type"):
            here = f"{place}.{key}"
            if key in INITIAL_WEIGHTS:
                checked[key] = part
            elif key == "type":
                checked[key] = _checked_type(part, kind, here, source)
            elif key == "_scope_":
                checked[key] = _checked_scope(part, here, source)
            else:
                checked[key] = checked_section(part, _KINDS.get(str(key), kind), here, source)
        return checked
    if isinstance(value, (list, tuple, set)):
        parts = [checked_section(part, kind, f"{place}[{index}]", source) for index, part in enumerate(value)]
        return type(value)(parts)
    if isinstance(value, (str, bytes)) and kind in ("MODELS", "TASK_UTILS") and not _is_word(value):
        raise ConfigError(expected=f"no file or address at {place} in the config of {source}", got=_quoted(value), fix=_TRUST)
    return value


@contextmanager
def without_imports() -> Iterator[None]:
    """Registries import nothing in this block and thread: a second wall behind ``checked_config``."""
    from mmengine.registry import registry

    # Where MMEngine looks up a dotted name, and where it imports `x.registry` for a name `x.Y`.
    if not isinstance(registry.get_object_from_string, _Import):
        registry.get_object_from_string = _Import(registry.get_object_from_string)
        registry.import_module = _Import(registry.import_module)
    token = _imports_allowed.set(False)
    try:
        yield
    finally:
        _imports_allowed.reset(token)


class _Import:
    """MMEngine's import of a name: of any where that is allowed, else from the packages that are trusted."""

    def __init__(self, original: Callable[[str], Any]) -> None:
        self._original = original

    def __call__(self, name: str) -> Any:
        if _imports_allowed.get() or ("." in name and name.partition(".")[0] in _PACKAGES - {"torch"}):
            return self._original(name)
        raise ImportError(f"'{name}' is not registered")  # which MMEngine expects, and turns into an error of its own


def _find(node: Any, name: str) -> tuple[str, type] | None:
    """The registered name and the class that a name means in a registry or its parents."""
    chain = []
    while node is not None:
        node.import_from_location()
        chain.append(node)
        node = node.parent
    path, _, last = name.rpartition(".")
    if path in _SCOPES or path + last == name:
        named = [(name, one.module_dict[last]) for one in chain if last in one.module_dict and path in ("", one.scope)]
    else:
        every = [(key, cls) for one in chain for key, cls in one.module_dict.items() if inspect.isclass(cls)]
        named = [(key, cls) for key, cls in every if cls.__name__ == last and _lies_in(cls, path)]
    ours = (one for one in named if inspect.isclass(one[1]) and one[1].__module__.partition(".")[0] in _PACKAGES)
    return next(ours, None)


def _lies_in(cls: type, path: str) -> bool:
    """In that module, or in one below it that gives it to the outside; mmcv registers its own SyncBatchNorm for torch's."""
    return any(f"{one.__module__}.".startswith(f"{path}.") for one in cls.__mro__ if one.__name__ == cls.__name__)


def _checked_type(name: Any, kind: Kind, place: str, source: str) -> str:
    import mmseg.registry

    found = _find(getattr(mmseg.registry, kind), name) if isinstance(name, str) else None
    if found is None:
        what = {"MODELS": "module", "TASK_UTILS": "sampler or assigner", "DATASETS": "data set", "TRANSFORMS": "transform"}
        raise ConfigError(
            expected=f"a {what[kind]} that mmseg, mmcv or mmengine registered, at {place} in the config of {source}",
            got=_quoted(name),
            fix=_TRUST,
        )
    if found[1].__name__ in _REACHES_OUT:
        raise ConfigError(
            expected=f"a module that opens no files of its own, at {place} in the config of {source}",
            got=_quoted(name),
            fix=_TRUST,
        )
    return found[0]


def _checked_scope(scope: Any, place: str, source: str) -> Any:
    if scope is not None and scope not in _SCOPES:
        raise ConfigError(
            expected=f"{' or '.join(_SCOPES)} at {place} in the config of {source}", got=_quoted(scope), fix=_TRUST
        )
    return scope


def _refuse_imports(value: Any, place: str, source: str) -> None:
    """Of parts that are not built: a name in one piece means nothing by itself, a dotted one would be imported."""
    if isinstance(value, Mapping):
        for key, part in value.items():
            here = f"{place}.{key}"
            if key == "type" and isinstance(part, (str, bytes)):
                if not str(part).isidentifier() and not _registered_anywhere(part):
                    raise ConfigError(
                        expected=f"a name that mmseg, mmcv or mmengine registered, at {here} in the config of {source}",
                        got=_quoted(part),
                        fix=_TRUST,
                    )
            elif key == "_scope_":
                _checked_scope(part, here, source)
            else:
                _refuse_imports(part, here, source)
    elif isinstance(value, (list, tuple, set)):
        for index, part in enumerate(value):
            _refuse_imports(part, f"{place}[{index}]", source)


def _registered_anywhere(name: str | bytes) -> bool:
    import mmseg.registry
    from mmengine.registry import FUNCTIONS, Registry

    if not isinstance(name, str):
        return False
    every = [one for one in vars(mmseg.registry).values() if isinstance(one, Registry)]
    return any(_find(one, name) for one in [*every, FUNCTIONS])


def _is_word(text: str | bytes) -> bool:
    return isinstance(text, str) and _WORD.fullmatch(text) is not None


def _quoted(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
