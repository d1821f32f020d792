import pytest

from segdeploy.base.errors import ConfigError
from segdeploy.models.config_text import parse_config_text


def test_round_trip_of_a_real_config():
    """What MMEngine writes of its largest kind of config is read back as MMEngine itself would by executing it."""
    from segdeploy.models.packages import load_mmseg

    load_mmseg()
    from mmengine.config import Config
    from mmengine.hub import get_config

    config = get_config("mmseg::segformer/segformer_mit-b0_8xb2-160k_ade20k-512x512.py")
    # Keys that are no identifiers, as those of paramwise_cfg often are, and values of every kind.
    keys = {"backbone.norm": {"decay_mult": 0.0}, "class": 1, 3: (None, True)}
    config.merge_from_dict({"extra": {"minus": -1.5, "none": None, "text": "a'b\"c\nd"}, "custom_keys": keys})
    text = config.pretty_text
    assert parse_config_text(text, "test") == Config.fromstring(text, ".py").to_dict()


@pytest.mark.parametrize(
    ("text", "values"),
    [
        (
            "a = dict(b=[1, -2.5, +3], c=(1,), d={'x': None, 5: True})",
            {"a": {"b": [1, -2.5, 3], "c": (1,), "d": {"x": None, 5: True}}},
        ),
        ("a = float('-inf')", {"a": float("-inf")}),
        ("a = {1, 2}", {"a": {1, 2}}),
        ("a = 'x' 'y'\nb = b'z'", {"a": "xy", "b": b"z"}),
        ("", {}),
    ],
)
def test_literals(text, values):
    """Every literal that a config can hold."""
    assert parse_config_text(text, "test") == values


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os').system('touch {target}')",
        "a = __import__('os').system('touch {target}')",
        "a = dict(b=open('{target}', 'w'))",
        "a = [x for x in (open('{target}', 'w'),)]",
        "import os; os.system('touch {target}')",
        "a = f\"{{open('{target}', 'w')}}\"",
        "a = dict(**open('{target}', 'w'))",
        "a = {{**open('{target}', 'w')}}",
        "a = dict(open('{target}', 'w'))",
        "a = float(open('{target}', 'w'))",
        "a = -open('{target}', 'w')",
        "a = lambda: 0",
        "a: int = open('{target}', 'w')",
        "a = b = 1",
        "a[0] = 1",
        "a = (b := 1)",
        "def f(): pass",
    ],
)
def test_code_is_refused_and_not_run(text, tmp_path):
    """Anything that is not a literal is named in one line, and never executed."""
    target = tmp_path / "created"
    with pytest.raises(ConfigError, match="only literals in the config of 'x.pth'") as caught:
        parse_config_text(text.format(target=target), "'x.pth'")
    assert "\n" not in str(caught.value)
    assert "line 1" in str(caught.value)
    assert not target.exists()


@pytest.mark.parametrize(
    "text",
    [
        "a = (",
        "a = \0",
        "a = " + "(" * 5000 + ")" * 5000,
        "a = " + "-" * 50_000 + "1",
        "a = " + "-" * 2000 + "1",
        "a = float('nonsense')",
        "a = {[]: 1}",
        "a = {{}, 1}",
        "a = -'x'",
    ],
)
def test_damaged_text(text):
    """Text that is no Python, too deep, or no value is a ConfigError of one line, whatever Python's parser raises."""
    with pytest.raises(ConfigError) as caught:
        parse_config_text(text, "'x.pth'")
    assert "\n" not in str(caught.value)
