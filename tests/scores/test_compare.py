import msgspec
import pytest

from segdeploy.base.errors import GateFailed, GateUndecided
from segdeploy.scores.compare import compare, gate
from segdeploy.scores.compare_text import summary, table
from segdeploy.scores.read import Figures, Scores, mean, precision


def scores(source, classes, **changes):
    """Scores from {name: (IoU, Acc)}."""
    figures = {name: Figures(iou=iou, acc=acc, precision=precision(iou, acc)) for name, (iou, acc) in classes.items()}
    values = {
        "source": source,
        "name": source,
        "miou": mean([one.iou for one in figures.values()]),
        "macc": mean([one.acc for one in figures.values()]),
        "aacc": 90.0,
        "classes": figures,
    }
    return Scores(**values | changes)


OLD = scores("old", {"road": (90.0, 95.0), "bike": (64.0, 80.0), "sign": (10.0, 20.0), "pole": (30.0, 50.0)})
NEW = scores("new", {"pole": (29.0, 40.0), "road": (90.0, 95.0), "bike": (43.0, 89.0), "sign": (22.5, 40.0)})


def test_classes_are_matched_by_name():
    """Whatever their order; the largest gain first, the largest loss last."""
    found = compare(OLD, NEW)
    assert [(one.name, one.iou) for one in found.changes] == [("sign", 12.5), ("road", 0.0), ("pole", -1.0), ("bike", -21.0)]
    assert [one.acc for one in found.changes] == [20.0, 0.0, -10.0, 9.0]
    assert (found.only_old, found.only_new, found.cautions) == ((), (), ())
    assert found.common_new - found.common_old == pytest.approx(NEW.miou - OLD.miou) == pytest.approx((12.5 - 1 - 21) / 4)


def test_what_it_says():
    """The means, what rose, what fell, and whether a class that fell is missed or wrongly found."""
    said = summary(compare(OLD, NEW))
    assert said[0] == "mIoU falls by 2.38 points: 48.50 to 46.12."
    assert said[1] == "IoU rises in 1 of 4 classes (most: sign +12.50) and falls in 2 (most: bike -21.00, pole -1.00)."
    assert said[2].startswith("bike: more pixels are wrongly taken for it, not more of it missed (Acc +9.00, precision -")
    assert said[3].startswith("pole: more of it is missed, not more wrongly taken for it (Acc -10.00, precision +")
    both = compare(scores("a", {"x": (50.0, 80.0)}), scores("b", {"x": (40.0, 70.0)}))
    assert "more of it is missed, and more pixels are wrongly taken for it" in summary(both)[2]
    assert summary(compare(OLD, OLD))[0].startswith("mIoU changes by less than 0.01")


def test_classes_in_one_only_are_listed():
    """None is dropped; the means over what both have are given beside the reported ones, which are of other classes."""
    less = scores("less", {"road": (91.0, 95.0), "lane": (50.0, 60.0)})
    found = compare(OLD, less)
    assert (found.only_old, found.only_new) == (("bike", "sign", "pole"), ("lane",))
    assert (found.common_old, found.common_new) == (90.0, 91.0)
    said = " ".join(summary(found))
    assert "Over the 1 classes in both, mIoU rises by 1.00 points: 90.00 to 91.00." in said
    assert "Only in 'old': bike, sign, pole." in said
    assert "Only in 'less': lane." in said
    names = [row[0] for row in table(found)[1]]
    assert names[:5] == ["road", "bike (old only)", "sign (old only)", "pole (old only)", "lane (new only)"]


def test_a_class_that_does_not_occur():
    """It has a row with dashes, no part in the means over both, and is named."""
    found = compare(
        OLD, scores("new", {"road": (80.0, 95.0), "bike": (None, None), "sign": (10.0, 20.0), "pole": (30.0, 50.0)})
    )
    assert found.changes[-1].name == "bike"
    assert (found.common_old, found.common_new) == (pytest.approx(130 / 3), pytest.approx(120 / 3))
    assert "Without an IoU in one of the two: bike." in summary(found)
    row = next(row for row in table(found)[1] if row[0] == "bike")
    assert row[1:4] == ["64.00", "-", "-"]


def test_the_table():
    """A row a class with old, new and change of IoU, Acc and precision; then the means."""
    columns, rows = table(compare(OLD, NEW))
    assert all(len(row) == len(columns) for row in rows)
    assert rows[3][:7] == ["bike", "64.00", "43.00", "-21.00", "80.00", "89.00", "+9.00"]
    assert rows[1][3] == "0.00"
    assert rows[-2][:4] == ["mean (mIoU, mAcc)", "48.50", "46.12", "-2.38"]
    assert rows[-1][4:7] == ["90.00", "90.00", "0.00"]


def test_gates():
    """mIoU and every class have their own limit; reaching it is allowed, going beyond is exit 3 with the figure."""
    found = compare(OLD, NEW)
    gate(found, max_drop=None, max_class_drop=None)
    gate(found, max_drop=2.375, max_class_drop=21.0)
    with pytest.raises(GateFailed, match=r"mIoU to fall by at most 2\.3 points; got 2\.38") as caught:
        gate(found, max_drop=2.3, max_class_drop=None)
    assert caught.value.exit_code == 3
    with pytest.raises(GateFailed, match=r"IoU of 'bike'.*got 21\.00: 64\.00 to 43\.00"):
        gate(found, max_drop=None, max_class_drop=0.5)  # pole is beyond it too: the worst is named
    gate(compare(scores("a", {"x": (67.91, 80.0)}), scores("b", {"x": (67.41, 80.0)})), max_drop=0.5, max_class_drop=None)
    gate(compare(NEW, OLD), max_drop=3.0, max_class_drop=13.0)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"complete": False}, "'new' is of a part of its images only"),
        ({"images": "4 images"}, "the images differ: 5 images, and 4 images"),
        ({"method": "on crops"}, "the methods differ: on whole images, and on crops"),
    ],
)
def test_what_cannot_be_compared_has_no_verdict(changes, told):
    """A part of the images, other images or another method: said, and a gate ends with exit 4, neither passed nor failed."""
    old = msgspec.structs.replace(OLD, images="5 images", method="on whole images")
    new = msgspec.structs.replace(NEW, **{"images": "5 images", "method": "on whole images"} | changes)
    found = compare(old, new)
    assert found.cautions == (told,)
    with pytest.raises(GateUndecided, match="that can be compared") as caught:
        gate(found, max_drop=99.0, max_class_drop=None)
    assert caught.value.exit_code == 4
    gate(found, max_drop=None, max_class_drop=None)


def test_a_log_knows_neither_images_nor_method():
    """What is not known cannot contradict."""
    assert compare(OLD, msgspec.structs.replace(NEW, images="5 images", method="on crops")).cautions == ()


def test_a_class_that_is_gone_has_no_verdict():
    """A gate does not pass because the class that became worse is no longer there."""
    with pytest.raises(GateUndecided, match="no IoU of bike, sign, pole there"):
        gate(compare(OLD, scores("new", {"road": (95.0, 99.0)})), max_drop=1.0, max_class_drop=None)
    with pytest.raises(GateUndecided, match="no IoU of bike there"):
        changed = {"road": (95.0, 99.0), "bike": (None, None), "sign": (10.0, 20.0), "pole": (30.0, 50.0)}
        gate(compare(OLD, scores("new", changed)), max_drop=None, max_class_drop=1.0)
    with pytest.raises(GateFailed):  # what is there and fell decides
        gate(compare(OLD, scores("new", {"road": (5.0, 99.0)})), max_drop=1.0, max_class_drop=None)
    with pytest.raises(GateUndecided, match="an IoU in both"):
        gate(compare(OLD, scores("new", {"other": (5.0, 99.0)})), max_drop=1.0, max_class_drop=None)
