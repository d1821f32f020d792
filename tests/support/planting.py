"""Edits of ONNX files, for planting faults."""

from __future__ import annotations

import numpy as np
from onnx import helper, numpy_helper


def edit(model, name, change):
    """Change an initializer of the ONNX file."""
    found = [one for one in model.graph.initializer if one.name == name]
    assert len(found) == 1, [one.name for one in model.graph.initializer]
    values = numpy_helper.to_array(found[0]).copy()
    found[0].CopyFrom(numpy_helper.from_array(np.ascontiguousarray(change(values)).astype(values.dtype), name))


def nodes(model, prefix):
    """The nodes whose names begin so, in their order."""
    return [node for node in model.graph.node if node.name.startswith(prefix)]


def attribute(node, name):
    """An attribute of a node."""
    return next(one for one in node.attribute if one.name == name)


def last_resize(model):
    """That of the mask."""
    consumed = {name for node in model.graph.node if node.op_type == "ArgMax" for name in node.input}
    (last,) = [node for node in model.graph.node if node.op_type == "Resize" and set(node.output) & consumed]
    return last


def constant(model, name, values):
    """Add an initializer."""
    model.graph.initializer.append(numpy_helper.from_array(np.asarray(values), name))
    return name


def insert_behind(model, name, op, extra=(), **attributes):
    """Put a node between a value and all who read it."""
    made = f"{name}_planted"
    for node in model.graph.node:
        for index, given in enumerate(node.input):
            if given == name:
                node.input[index] = made
    at = next((i for i, node in enumerate(model.graph.node) if name in node.output), -1) + 1
    model.graph.node.insert(at, helper.make_node(op, [name, *extra], [made], name=f"planted/{op}", **attributes))


def insert_before_logits(model, *steps):
    """Put nodes, each (op, further inputs, attributes), between what makes the logits and the output of that name."""
    maker = next(node for node in model.graph.node if "logits" in node.output)
    maker.output[list(maker.output).index("logits")] = given = "planted_logits"
    at = list(model.graph.node).index(maker) + 1
    for number, (op, extra, attributes) in enumerate(steps, 1):
        made = "logits" if number == len(steps) else f"planted_logits_{number}"
        node = helper.make_node(op, [given, *extra], [made], name=f"decode_head/{op}_planted{number}", **attributes)
        model.graph.node.insert(at + number - 1, node)
        given = made
