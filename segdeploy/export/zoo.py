"""Which of mmseg's architectures export: one config a family, untrained, each in a process of its own.

Real configs at their real width. Every model is exported with dynamic axes and held against mmseg at several sizes; where
the architecture itself takes one size only, or the exporter does not manage more, as a static graph, and the result says so.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Literal, TypeAlias

import msgspec

from segdeploy.core.configs import config_families, find_config
from segdeploy.core.errors import InputError, MissingExtraError
from segdeploy.core.files import write_file
from segdeploy.core.manifest import ShapeParity, Struct
from segdeploy.core.model import version_of

SCHEMA = 1
Outcome: TypeAlias = Literal["exported", "not available", "not supported", "failed"]

# The smallest config of a family that still is what the family is about. One that is not named here is tried by its first.
CHOSEN = {
    "ann": "ann_r50-d8_4xb4-20k_voc12aug-512x512",
    "apcnet": "apcnet_r50-d8_4xb4-80k_ade20k-512x512",
    "beit": "beit-base_upernet_8xb2-160k_ade20k-640x640",
    "bisenetv1": "bisenetv1_r18-d32_4xb4-160k_cityscapes-1024x1024",
    "bisenetv2": "bisenetv2_fcn_4xb4-160k_cityscapes-1024x1024",
    "ccnet": "ccnet_r50-d8_4xb4-20k_voc12aug-512x512",
    "cgnet": "cgnet_fcn_4xb4-60k_cityscapes-680x680",
    "convnext": "convnext-tiny_upernet_8xb2-amp-160k_ade20k-512x512",
    "danet": "danet_r50-d8_4xb4-20k_voc12aug-512x512",
    "ddrnet": "ddrnet_23-slim_in1k-pre_2xb6-120k_cityscapes-1024x1024",
    "deeplabv3": "deeplabv3_r18-d8_4xb2-80k_cityscapes-512x1024",
    "deeplabv3plus": "deeplabv3plus_r18-d8_4xb2-80k_cityscapes-512x1024",
    "dmnet": "dmnet_r50-d8_4xb4-80k_ade20k-512x512",
    "dnlnet": "dnl_r50-d8_4xb4-80k_ade20k-512x512",
    "dpt": "dpt_vit-b16_8xb2-160k_ade20k-512x512",
    "dsdl": "voc",
    "emanet": "emanet_r50-d8_4xb2-80k_cityscapes-512x1024",
    "encnet": "encnet_r50-d8_4xb4-20k_voc12aug-512x512",
    "erfnet": "erfnet_fcn_4xb4-160k_cityscapes-512x1024",
    "fastfcn": "fastfcn_r50-d32_jpu_psp_4xb4-80k_ade20k-512x512",
    "fastscnn": "fast_scnn_8xb4-160k_cityscapes-512x1024",
    "fcn": "fcn_r18-d8_4xb2-80k_cityscapes-512x1024",
    "gcnet": "gcnet_r50-d8_4xb4-20k_voc12aug-512x512",
    "hrnet": "fcn_hr18s_4xb4-20k_voc12aug-512x512",
    "icnet": "icnet_r18-d8_4xb2-80k_cityscapes-832x832",
    "isanet": "isanet_r50-d8_4xb4-20k_voc12aug-512x512",
    "knet": "knet-s3_r50-d8_fcn_8xb2-adamw-80k_ade20k-512x512",
    "mae": "mae-base_upernet_8xb2-amp-160k_ade20k-512x512",
    "mask2former": "mask2former_r50_8xb2-160k_ade20k-512x512",
    "maskformer": "maskformer_r50-d32_8xb2-160k_ade20k-512x512",
    "mobilenet_v2": "mobilenet-v2-d8_fcn_4xb4-160k_ade20k-512x512",
    "mobilenet_v3": "mobilenet-v3-d8-s_lraspp_4xb4-320k_cityscapes-512x1024",
    "nonlocal_net": "nonlocal_r50-d8_4xb4-20k_voc12aug-512x512",
    "ocrnet": "ocrnet_hr18s_4xb4-20k_voc12aug-512x512",
    "pidnet": "pidnet-s_2xb6-120k_1024x1024-cityscapes",
    "point_rend": "pointrend_r50_4xb4-160k_ade20k-512x512",
    "poolformer": "fpn_poolformer_s12_8xb4-40k_ade20k-512x512",
    "psanet": "psanet_r50-d8_4xb4-20k_voc12aug-512x512",
    "pspnet": "pspnet_r18-d8_4xb2-80k_cityscapes-512x1024",
    "resnest": "resnest_s101-d8_fcn_4xb4-160k_ade20k-512x512",
    "san": "san-vit-b16_voc12aug-640x640",
    "segformer": "segformer_mit-b0_8xb2-160k_ade20k-512x512",
    "segmenter": "segmenter_vit-t_mask_8xb1-160k_ade20k-512x512",
    "segnext": "segnext_mscan-t_1xb16-adamw-160k_ade20k-512x512",
    "sem_fpn": "fpn_r50_4xb4-160k_ade20k-512x512",
    "setr": "setr_vit-l_naive_8xb2-160k_ade20k-512x512",
    "stdc": "stdc1_4xb12-80k_cityscapes-512x1024",
    "swin": "swin-tiny-patch4-window7-in1k-pre_upernet_8xb2-160k_ade20k-512x512",
    "twins": "twins_pcpvt-s_fpn_fpnhead_8xb4-80k_ade20k-512x512",
    "unet": "unet-s5-d16_fcn_4xb4-40k_drive-64x64",
    "upernet": "upernet_r18_4xb4-20k_voc12aug-512x512",
    "vit": "vit_deit-s16_upernet_8xb2-80k_ade20k-512x512",
    "vpd": "vpd_sd_4xb8-25k_nyu-480x480",
}
_PACKAGES = ("segdeploy", "torch", "onedl-mmsegmentation", "onedl-mmcv", "onnx", "onnxscript", "onnxruntime")
_POLL_S = 0.2


class FormatResult(Struct, frozen=True):
    """One format of one model.

    Attributes:
        format: its name.
        status: ``dynamic`` and ``static`` passed parity at every shape in ``parity``; ``failed`` did not.
        step: what a dynamic height and width are multiples of.
        parity: the figures, a shape each.
        bytes: of the model file; None where there is none.
        seconds: export and verification together.
        reason: why it failed; of ``static``, why it is not dynamic.
    """

    format: str
    status: Literal["dynamic", "static", "failed"]
    step: int = 1
    parity: tuple[ShapeParity, ...] = ()
    bytes: int | None = None
    seconds: float = 0.0
    reason: str = ""


class Entry(Struct, frozen=True):
    """One config.

    Attributes:
        family: the folder it lies in.
        config: its name, as ``segdeploy export`` takes it.
        outcome: ``exported`` where every format passed; ``not available`` where its packages are not installed here;
            ``not supported`` where segdeploy refuses the model; ``failed`` otherwise.
        reason: why it is not ``exported``.
        parameters: how many the model has.
        formats: the results; empty where there is no model.
        seconds: of the whole process.
        peak_rss_bytes: its largest resident memory, as far as it was sampled.
    """

    family: str
    config: str
    outcome: Outcome
    reason: str = ""
    parameters: int | None = None
    formats: tuple[FormatResult, ...] = ()
    seconds: float = 0.0
    peak_rss_bytes: int = 0


class ZooReport(Struct, frozen=True):
    """The content of ``zoo.json``.

    Attributes:
        schema: 1.
        updated: when the last entry was made, ISO 8601 with the offset.
        command: what was typed.
        machine: in words.
        packages: version of each package that has a part in it.
        formats: that were asked for.
        timeout_s: for one config.
        memory_bytes: for one config.
        entries: by family.
    """

    schema: int
    updated: str
    command: str
    machine: str
    packages: dict[str, str]
    formats: tuple[str, ...]
    timeout_s: float
    memory_bytes: int
    entries: tuple[Entry, ...] = ()


@dataclass(frozen=True)
class Limits:
    """What one config may take.

    Attributes:
        timeout_s: seconds.
        memory_bytes: resident memory of its process and its children.
    """

    timeout_s: float
    memory_bytes: int


def choose_configs(names: Sequence[str]) -> dict[str, str]:
    """Configs by what they are called in the table: of families, of configs, or, where none is named, one of every family.

    Raises:
        InputError: a family is unknown.
        ConfigError: a config is not found.
    """
    shipped = config_families()
    if not names:
        return {family: _chosen(family, configs) for family, configs in shipped.items()}
    found = {}
    for name in names:
        if name in shipped:
            found[name] = _chosen(name, shipped[name])
        elif "::" in name or name.endswith(".py"):
            path = find_config(name)
            found[f"{path.parent.name}/{path.stem}"] = name
        else:
            raise InputError(
                expected="a family of mmseg's configs, or a config (mmseg::family/name, or a path)",
                got=f"'{name}'",
                fix=f"the families are {', '.join(shipped)}",
            )
    return found


def _chosen(family: str, configs: Sequence[str]) -> str:
    name = CHOSEN.get(family)
    return f"mmseg::{family}/{name if name in configs else configs[0]}"


def run_zoo(
    configs: dict[str, str],
    formats: Sequence[str],
    out: Path,
    limits: Limits,
    *,
    again: bool,
    command: str = "",
    seen: Callable[[Entry], None] = lambda _: None,
) -> ZooReport:
    """Try configs, one after the other; the report is written after each.

    Args:
        configs: see ``choose_configs``.
        formats: to export to.
        out: the report; entries of an earlier run with the same packages and formats are kept.
        limits: for each.
        again: try those too that the report has an entry of.
        command: what was typed.
        seen: is called with each new entry.

    Raises:
        InputError: the report is there and cannot be read, or cannot be written.
        MissingExtraError: psutil is not installed.
    """
    packages = {name: version for name in _PACKAGES if (version := version_of(name))}
    entries: dict[str, Entry] = {}
    older = read_report(out) if out.exists() else None
    if older is not None and (older.packages, older.formats) == (packages, tuple(formats)):
        entries = {entry.family: entry for entry in older.entries}
    for family, config in configs.items():
        if family in entries and entries[family].config == config and not again:
            continue
        entry = run_one(family, config, formats, limits)
        entries[family] = entry
        seen(entry)
        _write(out, _report(command, packages, formats, limits, entries))
    report = _report(command, packages, formats, limits, entries)
    _write(out, report)
    return report


def run_one(family: str, config: str, formats: Sequence[str], limits: Limits, child: Sequence[str] = ()) -> Entry:
    """Try one config in a process of its own, which is ended where it takes too long or too much memory.

    Args:
        family: what to call it.
        config: its name.
        formats: to export to.
        limits: for the process.
        child: a command in place of the usual one; it is given the config, the result's path and the formats.

    Raises:
        MissingExtraError: psutil is not installed.
    """
    command = list(child) or [sys.executable, "-m", "segdeploy.export.zoo_child"]
    with tempfile.TemporaryDirectory(prefix="segdeploy-zoo-") as scratch, tempfile.TemporaryFile() as log:
        result = Path(scratch) / "entry.json"
        started = time.monotonic()
        process = subprocess.Popen(
            [*command, family, config, str(result), *formats], cwd=scratch, stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )
        stopped, peak = _watch(process, limits)
        took = {"seconds": round(time.monotonic() - started, 1), "peak_rss_bytes": peak}
        if stopped or not result.is_file():
            log.seek(0)
            reason = stopped or _last_words(process.returncode, log.read().decode(errors="replace"))
            return Entry(family=family, config=config, outcome="failed", reason=reason, **took)
        entry = msgspec.json.decode(result.read_bytes(), type=Entry)
        return msgspec.structs.replace(entry, **took)


def _watch(process: subprocess.Popen[bytes], limits: Limits) -> tuple[str, int]:
    """Wait for a process; why it was stopped, if it was, and the largest memory seen."""
    try:
        import psutil
    except ModuleNotFoundError as error:
        process.kill()
        process.wait()
        raise MissingExtraError(package="psutil", extra="bench", purpose="watching the memory of an export") from error
    deadline, peak, why = time.monotonic() + limits.timeout_s, 0, ""
    try:
        while process.poll() is None and not why:
            rss = _resident(psutil, process.pid)
            peak = max(peak, rss)
            if rss > limits.memory_bytes:
                why = f"stopped: it took more than {limits.memory_bytes >> 20} MiB of memory"
            elif time.monotonic() > deadline:
                why = f"stopped: it took longer than {limits.timeout_s:g} s"
            else:
                time.sleep(_POLL_S)
    finally:
        if process.poll() is None:
            _kill(psutil, process)
    return why, peak


def _resident(psutil: object, pid: int) -> int:
    total = 0
    try:
        parent = psutil.Process(pid)  # type: ignore[attr-defined]
        for one in (parent, *parent.children(recursive=True)):
            total += one.memory_info().rss
    except psutil.Error:  # type: ignore[attr-defined]  # one of them has just ended
        pass
    return total


def _kill(psutil: object, process: subprocess.Popen[bytes]) -> None:
    try:
        children = psutil.Process(process.pid).children(recursive=True)  # type: ignore[attr-defined]
    except psutil.Error:  # type: ignore[attr-defined]
        children = []
    process.kill()
    for one in children:
        try:
            one.kill()
        except psutil.Error:  # type: ignore[attr-defined]
            continue
    process.wait()


def _last_words(code: int | None, log: str) -> str:
    said = [line.strip() for line in log.splitlines() if line.strip()]
    return f"its process ended with exit status {code}" + (f": {said[-1][:200]}" if said else "")


def read_report(path: Path) -> ZooReport:
    """Read what ``run_zoo`` wrote.

    Raises:
        InputError: it is not a report.
    """
    try:
        return msgspec.json.decode(path.read_bytes(), type=ZooReport)
    except (OSError, msgspec.DecodeError) as error:
        raise InputError(
            expected=f"a report of segdeploy zoo at '{path}'", got=str(error), fix="choose another --out, or remove it"
        ) from error


def _write(out: Path, report: ZooReport) -> None:
    write_file(out, json.dumps(msgspec.to_builtins(report), indent=1) + "\n")


def _report(
    command: str, packages: dict[str, str], formats: Sequence[str], limits: Limits, entries: dict[str, Entry]
) -> ZooReport:
    return ZooReport(
        schema=SCHEMA,
        updated=datetime.now().astimezone().isoformat(timespec="seconds"),
        command=command,
        machine=_machine(),
        packages=packages,
        formats=tuple(formats),
        timeout_s=limits.timeout_s,
        memory_bytes=limits.memory_bytes,
        entries=tuple(entries[family] for family in sorted(entries)),
    )


def _machine() -> str:
    import os
    import platform

    from segdeploy.runtime.open import usable_cpus

    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else 0
    words = f"{usable_cpus()} CPU cores ({platform.machine()})"
    return words + (f", {memory / 2**30:.0f} GiB of memory" if memory else "") + f", {platform.system()}"
