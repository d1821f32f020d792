"""The zoo's report as a table, for a terminal and as Markdown."""

from __future__ import annotations

from collections import Counter

from segdeploy.zoo.result import Entry, FormatResult, ZooReport

_STATUS = {"dynamic": "passed", "static": "passed, static", "failed": "FAILED"}


def columns(report: ZooReport) -> list[str]:
    """The heads of the table."""
    return ["family", "config", "parameters", *report.formats, "largest logit error", "labels agree", "note"]


def cells(report: ZooReport, entry: Entry) -> list[str]:
    """One entry as text, by ``columns``. What was not obtained is a dash."""
    by_format = {result.format: result for result in entry.formats}
    shapes = [shape for result in entry.formats for shape in result.parity]
    error = max((shape.logits.max_abs / max(1.0, shape.logits.scale) for shape in shapes), default=None)
    agreement = min((shape.masks.agreement for shape in shapes), default=None)
    return [
        entry.family,
        entry.config.removeprefix("mmseg::").removeprefix(f"{entry.family}/"),
        f"{entry.parameters / 1e6:.1f} M" if entry.parameters else "-",
        *(_status(entry, by_format.get(name)) for name in report.formats),
        "-" if error is None else f"{error:.1e}",
        "-" if agreement is None else f"{100 * agreement:.3f} %",
        _note(entry),
    ]


def summary(report: ZooReport) -> list[str]:
    """What the table says, counted: a sentence a format, then what could not be built here, by what is missing."""
    outcomes = Counter(entry.outcome for entry in report.entries)
    total = len(report.entries) - outcomes["not available"]
    said = []
    for name in report.formats:
        found = Counter(result.status for entry in report.entries for result in entry.formats if result.format == name)
        passed = found["dynamic"] + found["static"]
        said.append(
            f"{name}: {passed} of {total} configs pass parity, {found['dynamic']} of them with dynamic N, H and W, "
            f"{found['static']} at one static size; {total - passed - outcomes['not supported']} fail, "
            f"{outcomes['not supported']} are not supported."
        )
    missing = Counter(entry.reason for entry in report.entries if entry.outcome == "not available")
    if missing:
        kinds = ", ".join(f"{count} {reason}" for reason, count in sorted(missing.items()))
        said.append(f"Counted apart, not available here: {missing.total()} ({kinds}).")
    return said


def markdown(report: ZooReport) -> str:
    """The page that ``--markdown`` writes."""
    heads = columns(report)
    rows = [cells(report, entry) for entry in report.entries]
    versions = ", ".join(f"{name} {version}" for name, version in report.packages.items())
    lines = [
        "# Which architectures export",
        "",
        "One config of every family that mmseg ships, untrained (seeded random weights, no downloads), exported and held",
        "against mmseg's own model on seeded noise. This page is written by the command; do not edit it.",
        "",
        f"    {report.command}",
        "",
        f"{report.updated[:10]}, {report.machine}. {versions}.",
        f"Limits for one config: {report.timeout_s:g} s, {report.memory_bytes >> 20} MiB.",
        "",
        *(f"- {sentence}" for sentence in summary(report)),
        "",
        "`passed`: one artifact with dynamic N, H and W passed at three sizes, one of them in a batch of two.",
        "`passed, static`: one fixed size; the note says why. The largest logit error and the share of labels that agree are",
        "the worst of all formats and sizes; the error is relative to the largest logit, or to 1 where that is less, and the",
        "tolerance is 1e-4 of it and 99.99 % of the labels. With random weights parity is a statement about the graph:",
        "`segdeploy export` verifies your own checkpoint, on your own images.",
        "",
        "| " + " | ".join(heads) + " |",
        "|" + "---|" * len(heads),
        *("| " + " | ".join(text.replace("|", "\\|") for text in row) + " |" for row in rows),
        "",
    ]
    return "\n".join(lines)


def _status(entry: Entry, result: FormatResult | None) -> str:
    if result is not None:
        return _STATUS[result.status]
    return "FAILED" if entry.outcome == "failed" else entry.outcome


def _note(entry: Entry) -> str:
    notes = [entry.reason] if entry.reason else []
    for result in entry.formats:
        if result.status == "static":
            notes.append(f"{result.format} static: {result.reason}")
        elif result.step > 1:
            notes.append(f"H and W in multiples of {result.step}")
    return "; ".join(dict.fromkeys(notes))
