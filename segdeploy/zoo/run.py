"""Which of mmseg's architectures export: one config a family, untrained, each in a process of its own.

Real configs at their real width. Every model is exported with dynamic axes and held against mmseg at several sizes; where
the architecture itself takes one size only, or the exporter does not manage more, as a static graph, and the result says so.
"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path

import msgspec

from segdeploy.base.errors import InputError
from segdeploy.base.files import write_file
from segdeploy.base.machine import usable_cpus
from segdeploy.base.versions import version_of
from segdeploy.models.configs import config_families, find_config
from segdeploy.zoo.process import Limits, run_one
from segdeploy.zoo.result import SCHEMA, Entry, ZooReport, read_report

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
        InputError: there is no format, or the report is there and cannot be read, or cannot be written.
        MissingExtraError: psutil is not installed.
    """
    if not formats:
        raise InputError(expected="a format for --to", got="none", fix="name one, such as onnx")
    packages = {name: version for name in _PACKAGES if (version := version_of(name))}
    entries = _kept(out, packages, formats)
    for family, config in configs.items():
        if family in entries and entries[family].config == config and not again:
            continue
        entry = run_one(family, config, formats, limits)
        seen(entry)
        # Read anew: another run may have written to the same report meanwhile.
        entries = {**_kept(out, packages, formats), family: entry}
        _write(out, _report(command, packages, formats, limits, entries))
    report = _report(command, packages, formats, limits, entries)
    _write(out, report)
    return report


def _kept(out: Path, packages: dict[str, str], formats: Sequence[str]) -> dict[str, Entry]:
    """The entries of an earlier run with the same packages and formats."""
    older = read_report(out) if out.exists() else None
    if older is None or (older.packages, older.formats) != (packages, tuple(formats)):
        return {}
    return {entry.family: entry for entry in older.entries}


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
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else 0
    words = f"{usable_cpus()} CPU cores ({platform.machine()})"
    return words + (f", {memory / 2**30:.0f} GiB of memory" if memory else "") + f", {platform.system()}"
