"""The table of planted faults in docs/parity.md is that of the tests."""

import importlib.util
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
DOCS = HERE.parents[1] / "docs" / "parity.md"
KINDS = {
    "test_faults": "graph",
    "test_graph_faults": "graph",
    "test_rewritten_faults": "graph",
    "test_special_faults": "graph",
    "test_runtime_faults": "runtime",
    "test_served": "server",
}


def planted():
    """(kind, fault, how it is found) of every fault in the tests of this folder that say so in FAULTS or ALONE."""
    pytest.importorskip("onnx")
    found = []
    for path in sorted(HERE.glob("test_*.py")):
        if path == Path(__file__):
            continue
        spec = importlib.util.spec_from_file_location(f"planted_{path.stem}", path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        for fault, told in {**getattr(module, "FAULTS", {}), **getattr(module, "ALONE", {})}.items():
            name = fault.__name__.removeprefix("test_").replace("_", " ")
            kind = KINDS.get(path.stem, path.stem.removeprefix("test_").removesuffix("_faults"))
            found.append((kind, name, ", ".join(part for part in told if part)))
    return found


def table():
    """As Markdown."""
    rows = sorted(planted(), key=lambda row: row[0])
    return "\n".join(["| in the | fault | found as |", "|---|---|---|", *(f"| {' | '.join(row)} |" for row in rows)])


def test_the_table_is_that_of_the_tests():
    """No fault is listed that is not planted, none is planted that is not listed; to renew it, print ``table()``."""
    assert table() in DOCS.read_text()
    assert len({(kind, name) for kind, name, _ in planted()}) == len(planted()) >= 45
