"""What the pages for partners say can be typed and asked for as it stands there: commands with their options, routes."""

from __future__ import annotations

import itertools
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from service.cli.main import app
from service.http.web import build_app
from service.interfaces import INTERFACES

PAGES = sorted((Path(__file__).parents[3] / "docs" / "partners").glob("*.md"))
COMMANDS = get_command(app)
PATHS = build_app(INTERFACES).openapi()["paths"]
ROUTES = {(method.upper(), re.sub(r"\{\w+\}", "{}", path)) for path, item in PATHS.items() for method in item}
# Whose routes each page must name, all of them.
OF_PAGE = {
    "things.md": ("/v1/",),
    "set-top-boxes.md": ("/api/management/", "/api/user/"),
    "enrolment.md": ("/api/inboundDeviceEnrolment", "/api/orderDispatchResponse"),
    "warehouse.md": (),
}
every_page = pytest.mark.parametrize("page", PAGES, ids=[one.name for one in PAGES])


def blocks(text: str) -> list[str]:
    """Lines of blocks that are typed, each with those that it goes on in."""
    found = re.findall(r"^```(\w*)\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    return [line for kind, block in found if not kind for line in block.replace("\\\n", " ").splitlines()]


def leaf_of(words: list[str]) -> tuple[Any, list[str]]:
    """The command that these words reach, and what is left of them."""
    command: Any = COMMANDS
    while words and (found := getattr(command, "commands", None)) is not None:
        assert words[0] in found, f"no command {words[0]}"
        command, words = found[words[0]], words[1:]
    return command, words


@every_page
def test_every_command_of_a_block_is_understood_as_it_stands(page: Path) -> None:
    typed = [line for line in blocks(page.read_text()) if line.startswith("firstlight ")]
    assert len(typed) >= 5
    for line in typed:
        typed_words = itertools.takewhile(lambda word: word not in (">", "|"), shlex.split(line, comments=True)[1:])
        command, words = leaf_of([*typed_words])
        assert not hasattr(command, "commands"), line
        command.make_context(line, words)  # reads the words, and raises where they are not understood; runs nothing


@every_page
def test_every_command_in_a_sentence_exists_with_its_options(page: Path) -> None:
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    for line in re.findall(r"`firstlight ([^`]+)`", text):
        words = shlex.split(line.replace("...", ""))
        named = list(itertools.takewhile(lambda word: re.fullmatch(r"[a-z|-]+", word), words))
        rest = words[len(named) :]
        for choice in itertools.product(*(word.split("|") for word in named)):
            command, more = leaf_of([*choice, *rest])
            options = {name for one in command.params for name in (*one.opts, *one.secondary_opts)} | {"--help"}
            said = {word.split("=")[0] for word in more if word.startswith("--")}
            assert said <= options, f"{line}: {said - options}"


@every_page
def test_every_route_of_a_page_is_in_the_openapi_document(page: Path) -> None:
    text = page.read_text()
    named = set()
    for methods, path in re.findall(r"\b((?:GET|POST|PUT|DELETE)(?:\|(?:GET|PUT))*) ((?:\.\.\.)?/[\w./{}]+)", text):
        shape = re.sub(r"\{\w+\}", "{}", path).removesuffix(".")
        for method in methods.split("|"):
            end = shape.removeprefix("...")
            found = {
                one
                for one in ROUTES
                if one[0] == method and (one[1] == shape or (end != shape and one[1].endswith(end)))
            }
            assert found, f"{method} {path}"
            named |= found
    assert (
        named >= {one for one in ROUTES if one[1].startswith(OF_PAGE[page.name])} if OF_PAGE[page.name] else not named
    )
