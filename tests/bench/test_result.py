import json

import msgspec
import pytest

from segdeploy.base.errors import InputError
from segdeploy.bench.result import BenchRow, BenchSettings, disagreements, encode_report, read_report


def test_a_report_survives_json(tmp_path, row, report):
    """What is written is what is read, every raw value included."""
    whole = report(row("eager"), row(run_ms=(0.1, 1 / 3, 1e-7)), row("tensorrt", reason="no GPU", shape=None))
    path = tmp_path / "bench.json"
    path.write_bytes(encode_report(whole))
    assert read_report(path) == whole


@pytest.mark.parametrize("where", [(), ("settings",), ("environment",), ("rows", 0), ("rows", 0, "timing")])
def test_unknown_fields_are_refused(tmp_path, row, report, where):
    """A field that this version does not know makes the report unreadable, rather than being dropped."""
    values = json.loads(encode_report(report(row())))
    inner = values
    for key in where:
        inner = inner[key]
    inner["extra_field"] = 1
    path = tmp_path / "bench.json"
    path.write_text(json.dumps(values))
    with pytest.raises(InputError, match="extra_field"):
        read_report(path)


def test_another_schema_is_named(tmp_path, row, report):
    """A report of a later version is refused by its number, not by its first unknown field."""
    values = json.loads(encode_report(report(row()))) | {"schema": 2, "new": 1}
    path = tmp_path / "bench.json"
    path.write_text(json.dumps(values))
    with pytest.raises(InputError, match="schema 2"):
        read_report(path)


def test_a_missing_report_is_an_error_of_the_user(tmp_path):
    """A path that leads nowhere is said so."""
    with pytest.raises(InputError, match="no such file"):
        read_report(tmp_path / "none.json")


@pytest.mark.parametrize("figure", ["timing", "size_bytes", "evaluation", "device"])
def test_a_row_that_was_not_run_holds_no_figure(row, figure):
    """Neither Python nor JSON can make a row that was not run and has numbers."""
    measured = row()
    values = {name: getattr(measured, name) for name in measured.__struct_fields__} | {"status": "not run", "reason": "no GPU"}
    for other in ("timing", "size_bytes", "evaluation", "device"):
        if other != figure:
            values[other] = None
    with pytest.raises(ValueError, match="figures"):
        BenchRow(**values)
    with pytest.raises(msgspec.ValidationError, match="figures"):
        msgspec.json.decode(msgspec.json.encode(values), type=BenchRow)


@pytest.mark.parametrize("reason", [None, "", "two\nlines"])
def test_a_row_that_was_not_run_has_a_reason_of_one_line(row, reason):
    """There is no silent 'not run'."""
    silent = row(reason="no GPU")
    values = {name: getattr(silent, name) for name in silent.__struct_fields__} | {"reason": reason}
    with pytest.raises(ValueError, match="reason"):
        BenchRow(**values)


def test_a_measured_row_has_values(row):
    """A row cannot be measured without timings."""
    with pytest.raises(ValueError, match="timings"):
        row(timing=None)


def test_runs_of_other_machines_or_threads_are_not_comparable(row, report):
    """What must agree is named with both values; package versions may differ."""
    old = report(row())
    assert disagreements(old, old) == ()
    assert disagreements(old, report(row(), settings=BenchSettings(threads=4))) == ("threads: 2 and 4",)
    other = msgspec.structs.replace(old.environment, cpu="Other CPU", packages={"numpy": "1.0"})
    assert disagreements(old, msgspec.structs.replace(old, environment=other)) == ("CPU: Some CPU and Other CPU",)
