"""Configs stored inside checkpoints, read as data. Nothing in them is ever executed."""

from __future__ import annotations

import ast
from typing import Any

from segdeploy.base.errors import ConfigError


def parse_config_text(text: str, source: str) -> dict[str, Any]:
    """Parse MMEngine's ``pretty_text`` of a config: assignments of literals, with ``dict(key=value)`` calls.

    Args:
        text: the config.
        source: what to call it in an error.

    Raises:
        ConfigError: for anything that is not a literal, with its line.
    """
    try:
        return _assignments(ast.parse(text), source)
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError) as error:
        # Python's parser says MemoryError of what is nested too deep, as a damaged or hostile text can be.
        raise ConfigError(
            expected=f"a config as MMEngine writes it in {source}",
            got=f"text that cannot be read ({type(error).__name__}: {error})",
            fix="pass --config FILE",
        ) from error


def _assignments(tree: ast.Module, source: str) -> dict[str, Any]:
    names: dict[str, Any] = {}
    for node in tree.body:
        if not (isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name)):
            raise _not_literal(node, source)
        names[node.targets[0].id] = _literal(node.value, source)
    return names


def _literal(node: ast.expr, source: str) -> Any:  # noqa: C901, PLR0911, PLR0912  one case a kind of literal
    match node:
        case ast.Constant():
            return node.value
        case ast.UnaryOp(op=ast.USub() | ast.UAdd()):
            value = _literal(node.operand, source)
            if not isinstance(value, (int, float)):
                raise _not_literal(node, source)
            return -value if isinstance(node.op, ast.USub) else value
        case ast.Tuple():
            return tuple(_literal(item, source) for item in node.elts)
        case ast.List():
            return [_literal(item, source) for item in node.elts]
        case ast.Set():
            return {_literal(item, source) for item in node.elts}
        case ast.Dict():
            # A None key is `**other`: not a literal.
            if any(key is None for key in node.keys):
                raise _not_literal(node, source)
            return {
                _literal(key, source): _literal(value, source)
                for key, value in zip(node.keys, node.values, strict=True)
                if key is not None
            }
        case ast.Call(func=ast.Name(id="dict"), args=[]):
            if any(keyword.arg is None for keyword in node.keywords):
                raise _not_literal(node, source)
            return {keyword.arg: _literal(keyword.value, source) for keyword in node.keywords}
        case ast.Call(func=ast.Name(id="dict"), args=[ast.Dict() as only], keywords=[]):
            # How MMEngine writes a dict whose keys are no identifiers, such as those of paramwise_cfg's custom_keys.
            return _literal(only, source)
        case ast.Call(func=ast.Name(id="float"), args=[ast.Constant(value=str() as word)], keywords=[]):
            return float(word)
        case _:
            raise _not_literal(node, source)


def _not_literal(node: ast.AST, source: str) -> ConfigError:
    return ConfigError(
        expected=f"only literals in the config of {source}",
        got=f"'{ast.unparse(node)[:60]}' in line {getattr(node, 'lineno', '?')}",
        fix="pass the config that you trust with --config FILE",
    )
