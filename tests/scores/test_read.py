import json

import numpy as np
import pytest

from segdeploy.base.errors import InputError
from segdeploy.scores.read import common_kind, precision, read_scores

TABLE = "+--+--+--+\n| Class | IoU | Acc |\n+--+--+--+\n| a | 50.0 | 80.0 |\n| b | 25.0 | 40.0 |\n+--+--+--+\n"


@pytest.mark.parametrize("seed", range(4))
def test_precision_follows_from_iou_and_recall(seed):
    """On random pixels: what is derived from IoU and Acc is what counting true and false positives gives."""
    random = np.random.default_rng(seed)
    label, prediction = random.random(5000) < 0.3, random.random(5000) < 0.2 + 0.2 * seed
    hits = (label & prediction).sum()
    iou, acc = 100 * hits / (label | prediction).sum(), 100 * hits / label.sum()
    assert precision(iou, acc) == pytest.approx(100 * hits / prediction.sum())


def test_precision_that_cannot_be_known():
    """Nothing found, nothing labelled, or figures that contradict each other."""
    assert precision(0.0, 0.0) is None
    assert precision(None, 50.0) is None
    assert precision(50.0, None) is None
    assert precision(50.01, 50.0) is None
    assert precision(50.0, 50.0) == pytest.approx(100.0)


def test_a_log(tmp_path):
    """Without means they are computed from the table, and that is said; as is which of several tables it is."""
    path = tmp_path / "a.log"
    path.write_text(TABLE)
    scores = read_scores(path)
    assert (scores.miou, scores.macc, scores.aacc, scores.name) == (37.5, 60.0, None, "a")
    (note,) = scores.notes
    assert "computed from its table" in note
    path.write_text(TABLE + TABLE + "aAcc: 90.0  mIoU: 37.51  mAcc: 60.02\n")
    scores = read_scores(path)
    assert (scores.miou, scores.macc, scores.aacc) == (37.51, 60.02, 90.0)
    (note,) = scores.notes
    assert "2 tables" in note
    assert "the last" in note


def test_kinds_are_told_by_content(tmp_path):
    """Whatever the files are called; two kinds, another JSON, no JSON and no file are one line each."""
    log, bench, evaluation, other, broken = (tmp_path / f"{i}.json" for i in range(5))
    log.write_text(TABLE)
    bench.write_text(json.dumps({"schema": 1, "rows": [], "environment": {}}))
    evaluation.write_text(json.dumps({"schema": 1, "kind": "evaluation"}))
    other.write_text(json.dumps({"mIoU": 1.0}))
    broken.write_text("{")
    assert common_kind(log, evaluation) == "evaluation"
    assert common_kind(bench, bench) == "benchmark"
    with pytest.raises(InputError, match=r"1\.json', a benchmark run, and '.*2\.json', an evaluation"):
        common_kind(bench, evaluation)
    with pytest.raises(InputError, match="another JSON"):
        common_kind(log, other)
    with pytest.raises(InputError, match="expected JSON in"):
        common_kind(broken, log)
    with pytest.raises(InputError, match="no such file"):
        common_kind(log, tmp_path / "none")
    with pytest.raises(InputError, match="is a directory"):
        common_kind(log, tmp_path)
