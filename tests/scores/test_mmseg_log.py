import logging

import numpy as np
import pytest

from segdeploy.base.errors import InputError
from segdeploy.scores.mmseg_log import parse_log

TABLE = """
+-------+-------+-------+
| Class |  IoU  |  Acc  |
+-------+-------+-------+
|  road | 90.25 |  95.5 |
|  bike |  nan  |  nan  |
|  sign |  0.0  |  nan  |
+-------+-------+-------+
"""
# As mmseg 0.x ended an evaluation.
SUMMARY = """2021-05-04 09:00:00,000 - mmseg - INFO - Summary:
2021-05-04 09:00:00,000 - mmseg - INFO -
+-------+-------+-------+
|  aAcc |  mIoU |  mAcc |
+-------+-------+-------+
| 93.84 | 75.24 | 84.21 |
+-------+-------+-------+
"""


def test_reads_what_mmseg_logs(tmp_path):
    """A log file written by mmseg's own IoUMetric and mmengine's logger: every figure that they printed, nan included."""
    import torch
    from mmengine.logging import MMLogger, print_log

    from segdeploy.models.packages import load_mmseg

    load_mmseg()
    from mmseg.evaluation.metrics import IoUMetric

    names = ("a class", "b|c", "d", "never")
    metric = IoUMetric()
    metric.dataset_meta = {"classes": names}
    random = np.random.default_rng(0)
    logger = MMLogger.get_instance("test_mmseg_log", log_file=str(tmp_path / "run.log"))
    expected = None
    before = MMLogger._instance_dict.copy()
    try:
        MMLogger._instance_dict["mmengine"] = logger
        for _ in range(2):  # two evaluations in one file, as a training leaves them
            label, prediction = (torch.tensor(random.integers(0, 3, (40, 50))) for _ in range(2))
            results = [metric.intersect_and_union(prediction, label, 4, 255)]
            with np.errstate(all="ignore"):
                means = metric.compute_metrics(results)
                iou = metric.total_area_to_metrics(*results[0], ["mIoU"])
            print_log("Epoch(val) [1][5/5]    " + "  ".join(f"{k}: {v:.4f}" for k, v in means.items()), logger)
            expected = (iou, means)
    finally:
        MMLogger._instance_dict.clear()
        MMLogger._instance_dict.update(before)
        for handler in logger.handlers:
            handler.close()
        logging.Logger.manager.loggerDict.pop("test_mmseg_log", None)
    log = (tmp_path / "run.log").read_text()
    found = parse_log(log, "run.log")
    assert found.tables == 2
    assert tuple(name for name, _, _ in found.classes) == names
    scores, means = expected
    for (_, iou, acc), expected_iou, expected_acc in zip(found.classes, scores["IoU"], scores["Acc"], strict=True):
        assert (iou is None) == bool(np.isnan(expected_iou))
        assert iou is None or iou == pytest.approx(100 * float(expected_iou), abs=0.006)
        assert acc is None or acc == pytest.approx(100 * float(expected_acc), abs=0.006)
    assert found.means == pytest.approx({key: float(value) for key, value in means.items()}, abs=1e-4)


def test_a_table_alone():
    """Pasted without anything around it; nan is no figure; there are no means."""
    found = parse_log(TABLE, "t")
    assert found.classes == (("road", 90.25, 95.5), ("bike", None, None), ("sign", 0.0, None))
    assert (found.means, found.tables) == ({}, 1)


def test_the_last_of_several_tables():
    """A training's log holds one for each validation; means of an earlier one are not taken for the last one's."""
    line = "11/21 08:00:00 - mmengine - INFO - Iter(val) [9/9]    aAcc: 1.0000  mIoU: 2.0000  mAcc: 3.0000  data_time: 0.1\n"
    found = parse_log(TABLE.replace("90.25", "10.00") + line + "loss: 0.1\n" + TABLE, "t")
    assert found.tables == 2
    assert found.classes[0] == ("road", 90.25, 95.5)
    assert found.means == {}
    assert parse_log(TABLE + line, "t").means == {"aAcc": 1.0, "mIoU": 2.0, "mAcc": 3.0}


def test_means_in_a_table_of_their_own():
    """As mmseg 0.x logged them."""
    found = parse_log(TABLE + SUMMARY, "t")
    assert found.means == {"aAcc": 93.84, "mIoU": 75.24, "mAcc": 84.21}
    assert found.tables == 1


def test_tables_without_a_line_between_them():
    """Two tables pasted one behind the other are two."""
    assert parse_log(TABLE.strip() + "\n" + TABLE.strip() + "\n", "t").tables == 2


def test_further_columns():
    """mDice and mFscore add columns: IoU and Acc are found by their heads, whatever their order."""
    text = "+--+--+--+--+\n| Class | Dice | Acc | IoU |\n+--+--+--+--+\n| a | 1.0 | 2.0 | 3.0 |\n+--+--+--+--+\n"
    assert parse_log(text, "t").classes == (("a", 3.0, 2.0),)
    assert parse_log("+--+--+\n| Class | IoU |\n+--+--+\n| a | 3.0 |\n+--+--+\n", "t").classes == (("a", 3.0, None),)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "got none"),
        ("mIoU: 75.24\n", "got none"),
        ("+--+--+\n| aAcc | mIoU |\n+--+--+\n| 1 | 2 |\n+--+--+\n", "got none"),
        ("+--+--+\n| Class | Dice |\n+--+--+\n| a | 1 |\n+--+--+\n", "column IoU.*got Class, Dice"),
        (TABLE.replace("90.25", " ab.c"), "figures of 'road'.*got 'ab.c'"),
        (TABLE.replace("|  road | 90.25 |  95.5 |", "|  road | 90.25"), "figures of"),
        (TABLE.replace("bike", "road"), "'road' twice"),
        ("+--+--+\n| Class | IoU |\n+--+--+\n", "classes in the table"),
        ("+--+--+\n", "got none"),
    ],
)
def test_what_is_no_table_of_scores(text, told):
    """Each is one line that says what is missing."""
    with pytest.raises(InputError, match=told):
        parse_log(text, "x.log")
