"""Names that a reader understands, in place of the exporter's own, and none of the paths of the machine that exported."""

from __future__ import annotations

import ast
from typing import Any

# The modules that a node came from, outermost first, and their classes; the last of both is the operator itself.
_SCOPES, _CLASSES = "pkg.torch.onnx.name_scopes", "pkg.torch.onnx.class_hierarchy"
GRAPH = "graph"  # stands for the deploy graph itself, which has no path
MODULE_CLASS = "segdeploy.module_class"  # the one note that a node keeps


def name_nodes(model: Any) -> None:
    """Name every node ``module.path/OpType`` and its outputs likewise; the same model gets the same names.

    Args:
        model: an ``onnx_ir.Model``, changed in place. Its inputs, outputs and weights keep their names.
    """
    graph = model.graph
    kept = {value.name for value in (*graph.inputs, *graph.outputs)} | set(graph.initializers)
    taken = set(kept)
    for node in graph.all_nodes():
        node.name = _unused(f"{_module(node, graph) or GRAPH}/{node.op_type}", taken)
        for index, output in enumerate(node.outputs):
            if output.name not in kept:
                output.name = _unused(node.name if index == 0 else f"{node.name}.{index}", taken, own=node.name)
            output.metadata_props.clear()
        # Names say what the other notes say, or they are stack traces with the paths of this machine.
        classes = ast.literal_eval(node.metadata_props.get(_CLASSES, "[]"))
        node.metadata_props.clear()
        if len(classes) > 1:
            node.metadata_props[MODULE_CLASS] = str(classes[-2])
    for holder in (model, graph, *graph.inputs, *graph.initializers.values()):
        holder.metadata_props.clear()


def _module(node: Any, graph: Any) -> str:
    # A convolution with its normalisation folded in is noted as the normalisation; its weight says whose it is.
    for value in node.inputs:
        if value is not None and value.name in graph.initializers and value.name.endswith(".weight"):
            return str(value.name).removesuffix(".weight")
    scopes = ast.literal_eval(node.metadata_props.get(_SCOPES, "[]"))
    modules = [scope for scope in scopes[:-1] if not scope.startswith("_")]  # the last is the operator itself
    return str(modules[-1]) if modules else ""


def _unused(name: str, taken: set[str], own: str = "") -> str:
    """The name, or the name with the first free number. A value may be called as the node that makes it."""
    number, chosen = 1, name
    while chosen in taken and chosen != own:
        number += 1
        chosen = f"{name}_{number}"
    taken.add(chosen)
    return chosen
