"""docs/serving.md names what there is."""

from __future__ import annotations

import re
from pathlib import Path

from segdeploy.serve.metrics import METRICS
from segdeploy.serve.options import OPTION_NAMES
from segdeploy.serve.request import DEADLINE, OPTIONS, REQUEST_ID

TEXT = (Path(__file__).parents[2] / "docs" / "serving.md").read_text()


def rows(head):
    """First cells of the table whose head begins so."""
    table = TEXT.split(f"| {head} |", 1)[1].split("\n\n", 1)[0]
    return re.findall(r"^\| `?([^`|]+?)`? \|", table, re.MULTILINE)


def test_the_options_and_the_metrics_are_those_of_the_code():
    """All of them and no others, by their names and kinds."""
    assert rows("option") == list(OPTION_NAMES)
    assert rows("name") == [metric.name for metric in METRICS]
    for metric in METRICS:
        assert f"`{metric.name}` | {metric.kind} |" in TEXT
    for header in (DEADLINE, OPTIONS, REQUEST_ID):
        assert f"`{header}" in TEXT


def test_the_statuses_are_those_of_the_bad_requests():
    """Every status that a bad request is tested to get has its line."""
    tested = set(re.findall(r"\), (4\d\d|5\d\d)\)", (Path(__file__).parent / "test_bad_requests.py").read_text()))
    assert {"400", "406", "413", "415", "422", "504"} <= tested
    assert tested | {"500", "507"} == set(rows("status"))
