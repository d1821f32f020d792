"""A load report as rows of a table, as sentences, and as Markdown for a pull request."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from segdeploy.bench.load.percentiles import SHARES, independent, percentile
from segdeploy.bench.load.result import LoadReport, Trial
from segdeploy.bench.load.search import late_share

HEAD = ("load", "sent", "answered/s", "p50 ms", "p90 ms", "p95 ms", "p99 ms", "longest ms", "failed", "client late ms")

_LAG_MS, _LAG_SHARE = 3.0, 0.1  # a client later than both, in one of a hundred requests, is part of what it measures
_RATE_SHARE = 0.95
_BUSY_CLIENT = 0.9


def load_of(trial: Trial) -> str:
    """``20/s`` or ``4 clients``."""
    if trial.rate is not None:
        return f"{trial.rate:.3g}/s" if trial.rate < 100 else f"{trial.rate:.0f}/s"
    return f"{trial.clients} client{'s' if trial.clients != 1 else ''}"


def row_of(trial: Trial) -> list[str]:
    """Cells, as ``HEAD`` has them."""
    values = trial.latency_ms
    cells = [load_of(trial), str(trial.sent), f"{trial.answered_per_s:.1f}"]
    for share in SHARES:
        found = percentile(values, share)
        cells.append("-" if found is None else f"{_ms(found.value)} [{_ms(found.low)}, {_ms(found.high)}]")
    failed = ", ".join(f"{count} {kind}" for kind, count in trial.failed.items()) or "0"
    late = f"{_ms(float(np.quantile(trial.lag_ms, 0.99)))}" if trial.lag_ms else "-"
    mark = " (ended early)" if trial.ended_early else ""
    return [*cells, _ms(max(values)) if values else "-", failed + mark, late]


def rows_of(report: LoadReport) -> list[list[str]]:
    """All that was measured, in order; what a search tried stands with the rest."""
    return [row_of(trial) for trial in all_trials(report)]


def all_trials(report: LoadReport) -> tuple[Trial, ...]:
    """The loads that were asked for, then those of the search."""
    found = report.search
    extra = (*found.tried, *found.rejected, *([found.confirmed] if found.confirmed else ())) if found else ()
    return (*report.trials, *extra)


def client_was_late(trial: Trial) -> str | None:
    """Why this client did not send as it should have; None where it did."""
    if trial.rate is None or not trial.lag_ms:
        return None
    lag = float(np.quantile(trial.lag_ms, 0.99))
    usual = float(np.median(trial.latency_ms)) if trial.latency_ms else 0.0
    rate = trial.sent / trial.sending_s
    # By chance alone a Poisson process of n arrivals is off by 1/sqrt(n).
    if not trial.ended_early and rate < trial.rate * (_RATE_SHARE - 3 / trial.sent**0.5):
        return f"the client could not keep the rate: it sent {rate:.1f} a second, not {trial.rate:.1f}"
    if lag > max(_LAG_MS, _LAG_SHARE * usual):
        return f"the client could not keep the rate: one request in a hundred was sent {_ms(lag)} ms late or later"
    return None


def sentences(report: LoadReport) -> Iterator[str]:
    """What the figures do not say by themselves."""
    found = report.search
    if found is not None:
        yield _verdict(report)
    if report.interrupted:
        yield "Interrupted: what was measured until then."
    for trial in all_trials(report):
        yield from _cautions(trial, in_process=report.in_process)
    if any(trial.mode == "closed" for trial in report.trials):
        yield "A closed loop sends less when the server stalls: take latencies for users from --rate."
    if report.overhead is not None:
        yield (
            f"The client itself: {_ms(float(np.median(report.overhead.ms)))} ms a request, and at most "
            f"{report.overhead.per_s:.0f} requests a second, to a server that answers at once."
        )
    if report.in_process:
        yield "In-process: no network and no server's queue; the client's own work is in the model's process."


def markdown(report: LoadReport) -> str:
    """For a pull request."""
    lines = [f"### Load: {report.target}", "", "| " + " | ".join(HEAD) + " |", "|---" + "|--:" * (len(HEAD) - 1) + "|"]
    lines += ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows_of(report)]
    lines += ["", *(f"- {text}" for text in sentences(report))]
    machine = ", ".join(report.machine.values())
    lines += [f"- {report.pictures.count} pictures ({report.pictures.source}); client: {machine}; seed {report.seed}."]
    lines += ["", f"    {report.command}", ""]
    return "\n".join(lines)


def _verdict(report: LoadReport) -> str:
    found = report.search
    assert found is not None
    target = f"p99 within {found.target_p99_ms:g} ms"
    if found.confirmed is None or found.confirmed.rate is None:
        tried = [trial.rate for trial in (*found.tried, *found.rejected) if trial.rate is not None]
        return f"No rate keeps {target}" + (f"; the lowest tried was {min(tried):.3g} a second." if tried else ".")
    trial = found.confirmed
    share = 100 * late_share(trial, found.target_p99_ms)
    p99 = percentile(trial.latency_ms, 0.99)
    text = f"{trial.rate:.3g} requests a second keep {target}: measured again, {share:.2g} % of {trial.sent} were later"
    if p99 is None:
        return f"{text}; too few independent values for a p99."
    sure = "" if p99.high <= found.target_p99_ms else ", which leaves it open: raise --requests"
    return f"{text}, p99 {_ms(p99.value)} ms [{_ms(p99.low)}, {_ms(p99.high)}]{sure}."


def _cautions(trial: Trial, *, in_process: bool) -> Iterator[str]:
    load = load_of(trial)
    if late := client_was_late(trial):
        yield f"{load}: {late}."
    if not in_process and trial.client_cpu > _BUSY_CLIENT:
        yield f"{load}: the client used {100 * trial.client_cpu:.0f} % of a CPU, so that its own work is in the latencies."
    if trial.waited:
        yield f"{load}: {trial.waited} requests waited for a free connection (--connections); the wait is in their latency."
    count = len(trial.latency_ms)
    worth = independent(trial.latency_ms)
    if count and not trial.ended_early and percentile(trial.latency_ms, 0.99) is None:
        yield f"{load}: {count} latencies are worth {worth:.0f} independent ones; a p99 needs 368."


def _ms(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"
