"""JUnit and Markdown of verdicts: every check is there, and skipped is skipped."""

from xml.etree import ElementTree as ET

import msgspec
import pytest

from segdeploy.artifact.verdict import Determinism, Divergence, LayerError, Parity, TaskParity, Tolerance
from segdeploy.parity.reports import junit, markdown
from segdeploy.parity.tolerance import TOLERANCES


def verdict(task="undecided", overall="undecided", **more):
    decided = TaskParity(
        images=5,
        miou_reference=50.0,
        miou_candidate=49.0,
        low=None,
        high=None,
        epsilon=0.1,
        images_needed=10,
        classes=(),
        verdict=task,
        reason="too | few",
    )
    steady = Determinism(pixels=9, again=0, again_logits=0.0, batched=None, batched_logits=None, verdict="passed")
    return Parity(
        reference="eager",
        inputs="5 images",
        device="cpu",
        tolerance=TOLERANCES["fp32"],
        shapes=(),
        verdict=overall,
        task=decided,
        determinism=steady,
        **more,
    )


@pytest.fixture
def verdicts():
    skipped = Parity(
        reference="eager",
        inputs="i",
        device="none",
        tolerance=Tolerance(logits_max_abs=1e-4, mask_agreement=1.0, miou_points=0.1),
        shapes=(),
        verdict="skipped",
        reason="expected an NVIDIA GPU <here>",
    )
    layer = LayerError(module="a.conv", op="Conv", relative=None, added=None)
    broken = Divergence(stage="graph", module="a.conv", detail="it differs", layers=(layer,))
    return [("one", verdict()), ("two", skipped), ("three", verdict("failed", "failed", divergence=broken))]


def test_junit(verdicts):
    """A suite a candidate, a case a check, the counts those of the cases; what is undecided is no success."""
    suites = list(ET.fromstring(junit(verdicts)))
    assert [suite.get("name") for suite in suites] == ["one", "two", "three"]
    for suite, (_, parity) in zip(suites, verdicts, strict=True):
        cases = list(suite)
        assert [case.get("name") for case in cases] == [check.name for check in parity.checks]
        assert int(suite.get("tests")) == len(cases) == 4
        assert int(suite.get("skipped")) == sum(case.find("skipped") is not None for case in cases)
        assert int(suite.get("failures")) == sum(case.find("failure") is not None for case in cases)
        for case, check in zip(cases, parity.checks, strict=True):
            assert (case.find("skipped") is not None) == (check.verdict == "skipped")
            assert (case.find("failure") is not None) == (check.verdict in ("failed", "undecided"))
    assert suites[0].get("failures") == "1"
    assert suites[1].get("skipped") == "4"
    assert "a.conv" in suites[2].find(".//failure").text


def test_markdown(verdicts):
    """A table a candidate with a row a check; bars in a text do not break it."""
    text = markdown(verdicts)
    for name, parity in verdicts:
        assert f"## {name}: {parity.verdict}" in text
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    assert len(rows) == 3 * 5
    assert all(line.replace("\\|", "").count("|") == 4 for line in rows)
    assert "where: graph, a.conv: it differs" in text


def test_a_verdict_is_read_again(verdicts):
    """What JSON says of it is all of it."""
    for _, parity in verdicts:
        assert msgspec.json.decode(msgspec.json.encode(parity), type=Parity) == parity
