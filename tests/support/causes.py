"""Every cause that the service's source can raise, found by reading it.

A cause is the constant given for a parameter named `cause` of ServiceError or of a function that passes it on (a private
one within its own file), or a value in a table of causes.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

import service
from service.storage.errors import CAUSES

ROOT = Path(service.__file__).parent
WORD = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)*\Z")


def causes_in_source() -> dict[str, str]:
    """Cause -> the file that raises it."""
    trees = {path: ast.parse(path.read_text("utf-8")) for path in sorted(ROOT.rglob("*.py"))}
    own = {path: _takers(tree) for path, tree in trees.items()}
    public = {name: at for takers in own.values() for name, at in takers.items() if not name.startswith("_")}
    found = dict.fromkeys(CAUSES, "storage/errors.py")
    for path, tree in trees.items():
        takers = {"ServiceError": None, **public, **own[path]}
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and (name := _name(node)) in takers:
                for given in _given(node, takers[name]):
                    if isinstance(given, ast.Constant) and isinstance(given.value, str) and WORD.match(given.value):
                        found.setdefault(given.value, str(path.relative_to(ROOT)))
    return found


def _name(node: ast.Call) -> str:
    return getattr(node.func, "id", getattr(node.func, "attr", ""))


def _takers(tree: ast.Module) -> dict[str, int | None]:
    """Functions and classes with a parameter `cause`, and its position where it has one."""
    takers: dict[str, int | None] = {}
    for node in ast.walk(tree):
        of_class = isinstance(node, ast.ClassDef)
        for function in node.body if of_class else [node]:
            if isinstance(function, (ast.FunctionDef, ast.AsyncFunctionDef)):
                if of_class and function.name != "__init__":
                    continue
                names = [argument.arg for argument in function.args.args][1 if of_class else 0 :]
                keywords = [argument.arg for argument in function.args.kwonlyargs]
                if "cause" in names + keywords:
                    takers[node.name] = names.index("cause") if "cause" in names else None
    return takers


def _given(node: ast.Call, position: int | None) -> list[ast.expr]:
    named = [keyword.value for keyword in node.keywords if keyword.arg == "cause"]
    if not named and position is not None and len(node.args) > position:
        named = [node.args[position]]
    return named
