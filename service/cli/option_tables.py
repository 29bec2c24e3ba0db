"""Commands whose options stand in a table: those that several commands have, and many of one kind.

Owns how typer comes to see them. A table has for each name what typer makes of the option, and its default.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

Options = Mapping[str, tuple[Any, Any]]


def with_table(function: Callable[..., None], options: Options) -> Callable[..., None]:
    """A typer command from a function that takes the options of a table as a map `more`."""

    def command(**given: Any) -> None:
        more = {name: given.pop(name) for name in options}
        function(**given, more=more)

    return extended(function, options, command)


def extended(function: Callable[..., Any], options: Options, command: Callable[..., None]) -> Callable[..., None]:
    """`command` with the parameters of `function` and, in the place of its `more` or else behind them, those options."""
    own = dict(inspect.signature(function, eval_str=True).parameters)
    before = list(own)[: list(own).index("more")] if "more" in own else list(own)
    added = {
        name: inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
        for name, (annotation, default) in options.items()
    }
    found = {**{name: own[name] for name in before}, **added, **own}
    found.pop("more", None)
    parameters = [one.replace(kind=inspect.Parameter.KEYWORD_ONLY) for one in found.values()]
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {one.name: one.annotation for one in parameters}
    command.__doc__ = function.__doc__
    command.__name__ = function.__name__
    return command
