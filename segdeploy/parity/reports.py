"""A verdict as JUnit XML for a CI's test view, and as Markdown for its summary. Views of the same checks, none left out."""

from __future__ import annotations

from collections.abc import Sequence
from xml.etree import ElementTree as ET

from segdeploy.artifact.verdict import CHECKS, Check, FlipFigures, Parity, describe_shape, shape_check


def junit(verdicts: Sequence[tuple[str, Parity]]) -> str:
    """One suite a candidate, one case a check. Skipped is ``skipped``; what failed or could not be decided is ``failure``.

    What could not be opened or run at all is ``error``.

    Args:
        verdicts: (what the candidate is called: its folder, or a server's address; its verdict).
    """
    root = ET.Element("testsuites", name="segdeploy verify")
    for name, parity in verdicts:
        checks = parity.checks
        suite = ET.SubElement(
            root,
            "testsuite",
            name=name,
            tests=str(len(checks)),
            failures=str(sum(check.verdict in ("failed", "undecided") for check in checks)),
            skipped=str(0 if parity.broken else sum(check.verdict == "skipped" for check in checks)),
            errors=str(len(checks) if parity.broken else 0),
            time=f"{parity.seconds:.3f}",
        )
        for check in checks:
            case = ET.SubElement(suite, "testcase", classname=f"parity.{name}", name=check.name)
            if parity.broken:
                ET.SubElement(case, "error", message=check.reason)
            elif check.verdict == "skipped":
                ET.SubElement(case, "skipped", message=check.reason)
            elif check.verdict != "passed":
                text = f"{check.verdict}: {check.reason}"
                failure = ET.SubElement(case, "failure", message=text, type=check.verdict)
                failure.text = "\n".join([text, *told_divergence(parity)])
    ET.indent(root)
    return ET.tostring(root, encoding="unicode", xml_declaration=True) + "\n"


def markdown(verdicts: Sequence[tuple[str, Parity]]) -> str:
    """A heading and a table a candidate."""
    parts = ["# Parity"]
    for name, parity in verdicts:
        parts += [f"\n## {_cell(name)}: {parity.verdict}\n"]
        ran = ", ".join(filter(None, (parity.device, parity.provider, parity.processor)))
        parts += [f"Against {parity.reference}, on {parity.inputs}; {_cell(ran)}.\n"]
        parts += [f"Not recorded in its manifest: {_cell(parity.unrecorded)}\n"] if parity.unrecorded else []
        parts += ["| check | verdict | figures |", "|---|---|---|"]
        parts += [f"| {_cell(check.name)} | {check.verdict} | {_cell(figures(parity, check))} |" for check in parity.checks]
        parts += [f"\n{line}" for line in told_divergence(parity)]
        parts += _decades(parity)
        parts += _classes(parity)
    return "\n".join(parts) + "\n"


def _decades(parity: Parity) -> list[str]:
    """How many logits are off by how much, a row a shape; nothing where no logits were compared."""
    if not parity.shapes:
        return []
    shown = sorted({decade for shape in parity.shapes for decade, _ in shape.logits.decades})
    lines = ["\nShare of the logits whose error has this order of magnitude, in per cent:\n"]
    lines += ["| N x HxW | " + " | ".join(f"1e{decade}" for decade in shown) + " |", "|---" * (len(shown) + 1) + "|"]
    for shape in parity.shapes:
        counts = dict(shape.logits.decades)
        total = sum(counts.values())
        cells = [f"{100 * counts[decade] / total:.3g}" if decade in counts else "0" for decade in shown]
        lines.append(f"| {describe_shape(shape.shape)} | " + " | ".join(cells) + " |")
    return lines


def _classes(parity: Parity) -> list[str]:
    """IoU and flips of each class; nothing without labels."""
    if parity.task is None or not parity.task.classes:
        return []
    flips = parity.labels.labels.classes if parity.labels else ()
    lines = ["\n| class | IoU of the reference | of the candidate | labels that flipped |", "|---|---|---|---|"]
    for index, one in enumerate(parity.task.classes):
        theirs, ours = ("-" if value is None else f"{value:.3f}" for value in (one.reference, one.candidate))
        lines.append(f"| {_cell(one.name)} | {theirs} | {ours} | {flips[index] if index < len(flips) else '-'} |")
    return lines


def figures(parity: Parity, check: Check) -> str:
    """What a check found, in a line: its figures, and the reason where there is one."""
    told = [
        f"{shape.images} images; logits off by at most {shape.logits.max_abs:.1e} (mean {shape.logits.mean_abs:.1e}, "
        f"99 % within {shape.logits.p99_abs:.1e}, cosine {shape.logits.cosine:.9f}); {describe_flips(shape.masks)}"
        for shape in parity.shapes
        if check.name == shape_check(shape.shape)
    ]
    if parity.labels is not None and check.name == CHECKS[1]:
        told.append(f"{parity.labels.images} images; {describe_flips(parity.labels.labels)}")
    if parity.task is not None and check.name == CHECKS[2] and parity.task.miou_reference is not None:
        told.append(f"{parity.task.miou_reference:.2f} and {parity.task.miou_candidate:.2f} on {parity.task.images} images")
    return "; ".join([*told, check.reason] if check.reason else told)


def told_divergence(parity: Parity) -> list[str]:
    """What the fit costs, and where a difference begins, in lines; none where there is neither."""
    lines = [parity.fit.words] if parity.fit is not None else []
    found = parity.divergence
    if found is None:
        return lines
    where = f"{found.stage}, {found.module}" if found.module else found.stage
    lines.append(f"where{'' if found.sure else ' (not sure)'}: {where}: {found.detail}")
    for layer in found.layers:
        relative = "not finite" if layer.relative is None else f"{100 * layer.relative:.3g} % off"
        added = "" if layer.added is None else f", of which it adds {100 * layer.added:.3g}"
        lines.append(f"  {layer.module} ({layer.op}): {relative}{added}")
    return lines


def describe_flips(flips: FlipFigures) -> str:
    """Labels that differ, in words."""
    if not flips.differ:
        return "all labels agree"
    tied = f", {flips.ties} ties" if flips.ties else ""
    return (
        f"{flips.differ} of {flips.pixels:,} labels differ ({flips.band} at borders, {flips.interior} inside, "
        f"{flips.firm} where the reference was sure{tied}; margin up to {flips.margin_max:.1e})"
    )


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
