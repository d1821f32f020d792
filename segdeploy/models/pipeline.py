"""The test pipeline of a config: what of it an artifact does, and what is refused."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, cast

from segdeploy.artifact.manifest import Resize
from segdeploy.base.errors import ConfigError
from segdeploy.models.datasets import datasets_of

_RESIZES = ("Resize", "ResizeShortestEdge", "ResizeToMultiple")
# Steps that load or pack, with the options that would change a pixel and the only values that segdeploy follows.
_LOADERS: dict[str, dict[str, tuple[Any, ...]]] = {
    "LoadImageFromFile": {"to_float32": (False,), "color_type": ("color",), "imdecode_backend": ("cv2", None)},
    "LoadAnnotations": {"imdecode_backend": ("pillow",)},
    "PackSegInputs": {},
}
# What each library of mmcv's calls its filters.
_FILTERS = {
    "cv2": ("nearest", "bilinear", "bicubic", "area", "lanczos"),
    "pillow": ("nearest", "bilinear", "bicubic", "box", "lanczos", "hamming"),
}
_SCOPES = ("mmseg.", "mmcv.", "mmengine.")
_FIX = "pass a config whose test pipeline does without: --config FILE"


def pipeline_resize(config: Mapping[str, Any]) -> Resize:
    """Every resize of the test pipeline.

    Raises:
        ConfigError: a step that segdeploy does not do, or data sets with different pipelines.
    """
    loader = "test_dataloader" if config.get("test_dataloader") else "val_dataloader"
    pipelines = [dataset["pipeline"] for dataset in datasets_of(config, loader) if dataset.get("pipeline")]
    found = [_resize(pipeline) for pipeline in pipelines or [config.get("test_pipeline") or ()]]
    different = next((one for one in found if one != found[0]), None)
    if different is not None:
        raise ConfigError(
            expected=f"one way to resize in all data sets of {loader}",
            got=f"{found[0].words}, and {different.words}",
            fix="keep one of them: --config FILE",
        )
    return found[0]


def _resize(pipeline: Sequence[Mapping[str, Any]]) -> Resize:
    steps: list[Resize] = []
    for step in pipeline:
        kind = str(step.get("type"))
        for scope in _SCOPES:
            kind = kind.removeprefix(scope)
        if kind in _LOADERS:
            _check_loader(kind, step)
        elif kind in _RESIZES:
            steps.append(_step(kind, step))
        else:
            raise ConfigError(
                expected=f"a test pipeline of {', '.join(sorted(_LOADERS))}, {' and '.join(_RESIZES)}", got=kind, fix=_FIX
            )
    whole: Resize | None = None
    for one in reversed(steps):
        whole = Resize(one.mode, one.scale, one.factor, one.interpolation, one.backend, whole)
    return whole or Resize(mode="none")


def _check_loader(kind: str, step: Mapping[str, Any]) -> None:
    for key, followed in _LOADERS[kind].items():
        if key in step and step[key] not in followed:
            raise ConfigError(
                expected=f"{kind} with {key}={followed[0]!r} in the test pipeline", got=f"{key}={step[key]!r}", fix=_FIX
            )


def _step(kind: str, step: Mapping[str, Any]) -> Resize:
    name = str(step.get("interpolation") or "bilinear")
    library = cast("Literal['cv2', 'pillow']", step.get("backend", "cv2"))
    if name not in _FILTERS.get(library, ()):
        raise ConfigError(
            expected=f"a filter of mmcv's in {kind}: {', '.join(_FILTERS.get(library, _FILTERS['cv2']))}",
            got=f"interpolation={name!r} of backend={library!r}",
            fix=_FIX,
        )
    mode, scale, factor = _size(kind, step)
    return Resize(mode=mode, scale=scale, factor=factor, interpolation=name, backend=library)  # type: ignore[arg-type]


def _size(
    kind: str, step: Mapping[str, Any]
) -> tuple[Literal["keep_ratio", "exact", "shortest_edge", "multiple"], tuple[int, int] | None, tuple[float, float] | None]:
    if kind == "ResizeToMultiple":
        return "multiple", _whole(kind, "size_divisor", step.get("size_divisor", 32)), None
    if kind == "ResizeShortestEdge":
        edge = min(_whole(kind, "scale", step.get("scale")))
        return "shortest_edge", (edge, _whole(kind, "max_size", step.get("max_size"))[0]), None
    mode: Literal["keep_ratio", "exact"] = "keep_ratio" if step.get("keep_ratio") else "exact"
    if step.get("scale") is not None:  # with both, mmcv takes the scale
        return mode, _whole(kind, "scale", step["scale"]), None
    given = step.get("scale_factor")
    factors = tuple(given) if isinstance(given, (tuple, list)) else (given, given)
    if len(factors) != 2 or not all(isinstance(one, (int, float)) and one > 0 for one in factors):
        raise ConfigError(expected=f"a scale, or a scale_factor, above 0 in {kind}", got=str(given), fix=_FIX)
    return mode, None, (float(factors[0]), float(factors[1]))


def _whole(kind: str, key: str, given: Any) -> tuple[int, int]:
    """A whole number, for both sides, or a pair of them."""
    pair = tuple(given) if isinstance(given, (tuple, list)) else (given, given)
    if len(pair) != 2 or not all(isinstance(one, int) and one > 0 for one in pair):
        raise ConfigError(expected=f"{key} of {kind} above 0: a whole number, or two", got=repr(given), fix=_FIX)
    return int(pair[0]), int(pair[1])
