"""The page, from reports made by hand."""

import pytest

from segdeploy.artifact.verdict import FlipFigures, LogitFigures, ShapeParity
from segdeploy.zoo.result import SCHEMA, Entry, FormatResult, ZooReport
from segdeploy.zoo.table import cells, columns, markdown, summary


def parity(error, scale, agreement):
    logits = LogitFigures(
        max_abs=error,
        mean_abs=error / 2,
        p99_abs=error,
        scale=scale,
        relative_l2=1e-7,
        cosine=1.0,
        psnr_db=None,
        decades=((-7, 1),),
        class_max_abs=(error,),
        not_finite=0,
    )
    masks = FlipFigures(pixels=64, differ=0, agreement=agreement, band=0, interior=0, firm=0, margin_max=0.0, classes=(0,))
    return ShapeParity(shape=(1, 8, 8), images=1, logits=logits, masks=masks, verdict="passed")


ENTRIES = (
    Entry(
        family="a",
        config="mmseg::a/a_r18",
        outcome="exported",
        parameters=12_340_000,
        formats=(
            FormatResult(format="onnx", status="dynamic", parity=(parity(4e-5, 8.0, 1.0), parity(2e-5, 0.5, 0.99998))),
            FormatResult(format="torchscript", status="static", reason="one | two", parity=(parity(1e-6, 8.0, 1.0),)),
        ),
    ),
    Entry(
        family="b",
        config="mmseg::b/b",
        outcome="failed",
        parameters=1_000_000,
        reason="onnx: no such operator",
        formats=(
            FormatResult(format="onnx", status="failed", reason="no such operator"),
            FormatResult(format="torchscript", status="dynamic", step=8, parity=(parity(3e-6, 2.0, 1.0),)),
        ),
    ),
    Entry(family="c", config="mmseg::c/c", outcome="not available", reason="needs mmdet"),
    Entry(family="d", config="mmseg::d/d", outcome="not supported", reason="another task"),
    Entry(family="e", config="mmseg::e/e", outcome="failed", reason="stopped: it took longer than 5 s"),
)
REPORT = ZooReport(
    schema=SCHEMA,
    updated="2026-01-02T03:04:05+00:00",
    command="segdeploy zoo",
    machine="2 CPU cores",
    packages={"torch": "2.0"},
    formats=("onnx", "torchscript"),
    timeout_s=5,
    memory_bytes=1 << 30,
    entries=ENTRIES,
)


def test_cells():
    """What was not obtained is a dash, never a number; what is not available is never a failure."""
    rows = [dict(zip(columns(REPORT), cells(REPORT, entry), strict=True)) for entry in ENTRIES]
    assert [(row["onnx"], row["torchscript"]) for row in rows] == [
        ("passed", "passed, static"),
        ("FAILED", "passed"),
        ("not available", "not available"),
        ("not supported", "not supported"),
        ("FAILED", "FAILED"),
    ]
    # 4e-5 of logits up to 8 is less than 2e-5 of logits below 1, whose scale counts as 1.
    assert rows[0]["largest logit error"] == "2.0e-05"
    assert rows[0]["labels agree"] == "99.998 %"
    assert rows[0]["parameters"] == "12.3 M"
    assert rows[0]["config"] == "a_r18"
    assert rows[0]["note"] == "torchscript static: one | two"
    assert rows[1]["note"] == "onnx: no such operator; H and W in multiples of 8"
    for row in rows[2:]:
        assert (row["largest logit error"], row["labels agree"], row["parameters"]) == ("-", "-", "-")


def test_the_counts():
    """Every config is counted once a format, and missing packages apart from failures."""
    onnx, torchscript, apart = summary(REPORT)
    assert onnx == (
        "onnx: 1 of 4 configs pass parity, 1 of them with dynamic N, H and W, 0 at one static size; "
        "2 fail, 1 are not supported."
    )
    assert torchscript.startswith("torchscript: 2 of 4 configs pass parity, 1 of them with dynamic N, H and W, 1 at one static")
    assert torchscript.endswith("; 1 fail, 1 are not supported.")
    assert apart == "Counted apart, not available here: 1 (1 needs mmdet)."


def test_the_page():
    """A table that Markdown reads: as many cells in every row, with what wrote it and where."""
    page = markdown(REPORT)
    rows = [line for line in page.splitlines() if line.startswith("|")]
    assert len(rows) == 2 + len(ENTRIES)
    assert {line.replace("\\|", "").count("|") for line in rows} == {len(columns(REPORT)) + 1}
    for words in ("    segdeploy zoo", "2026-01-02", "2 CPU cores", "torch 2.0", "5 s, 1024 MiB", *summary(REPORT)):
        assert words in page


@pytest.mark.parametrize("entries", [(), ENTRIES[2:3]])
def test_nothing_obtained(entries):
    """A report without one export makes a page all the same."""
    import msgspec

    assert "0 of" in markdown(msgspec.structs.replace(REPORT, entries=entries))
