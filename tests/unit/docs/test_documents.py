"""The documents name only what exists: tests, files, headings, commands."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from typer.main import get_command

from service.cli import config_text
from service.cli.main import app

TOP = Path(__file__).parents[3]
DOCUMENTS = [TOP / "README.md", *sorted((TOP / "docs").rglob("*.md")), TOP / "broker_config" / "README.md"]
NAMES = [str(one.relative_to(TOP)) for one in DOCUMENTS]
COMMANDS = get_command(app)


def anchors(document: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", document.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def links(document: Path) -> list[tuple[str, Path, str]]:
    """(as it is written, the file, the heading) of each link that stays here."""
    found = []
    for target in re.findall(r"\]\(([^)\s]+)\)", document.read_text()):
        if not target.startswith(("http://", "https://")):
            name, _, anchor = target.partition("#")
            found.append((target, (document.parent / name).resolve() if name else document, anchor))
    return found


@pytest.mark.parametrize("document", DOCUMENTS, ids=NAMES)
def test_every_link_leads_to_a_file_and_a_heading_that_exist(document: Path) -> None:
    for target, led_to, anchor in links(document):
        assert led_to.exists(), target
        assert not anchor or anchor in anchors(led_to), target


def test_every_page_is_reached_from_the_readme() -> None:
    reached, new = set[Path](), {TOP / "README.md"}
    while new:
        reached |= new
        new = {to for one in new for _, to, _ in links(one) if to.suffix == ".md"} - reached
    assert [str(one.relative_to(TOP)) for one in DOCUMENTS if one not in reached] == []


def test_a_bootstrap_address_in_the_documents_has_the_port_of_the_bootstrap_listener() -> None:
    text = "".join(one.read_text() for one in DOCUMENTS)
    ports = re.findall(r'"bootstrap": ?\[\{[^}]*"port": ?(\d+)', text) + re.findall(r"\bboot[\w.-]*\.org:(\d+)", text)
    assert len(ports) >= 2
    assert {int(one) for one in ports} <= {config_text.BOOTSTRAP_PORT, config_text.EMBEDDED_BOOTSTRAP_PORT}


def test_every_test_that_the_security_document_names_exists() -> None:
    named = set(re.findall(r"`(test_\w+)`", (TOP / "docs" / "security.md").read_text()))
    source = "\n".join(one.read_text() for one in (TOP / "tests").rglob("test_*.py") if "node_modules" not in one.parts)
    assert len(named) > 40
    assert named <= set(re.findall(r"def (test_\w+)", source))


@pytest.mark.parametrize("document", DOCUMENTS, ids=NAMES)
def test_every_command_in_a_block_has_the_options_that_are_shown(document: Path) -> None:
    for block in re.findall(r"^ *```\n(.*?)^ *```", document.read_text(), re.MULTILINE | re.DOTALL):
        for line in re.findall(r"(?:^|[ /])firstlight ([a-z].*)$", block, re.MULTILINE):
            words = shlex.split(line.split("  #")[0], comments=True)
            _known(COMMANDS, words, line)


def _known(command: object, words: list[str], line: str) -> None:
    while hasattr(command, "commands"):
        assert words, line
        assert words[0] in command.commands, line
        command, words = command.commands[words[0]], words[1:]
    options = {name for one in command.params for name in (*one.opts, *one.secondary_opts)}  # type: ignore[attr-defined]
    assert {word.split("=")[0] for word in words if word.startswith("--")} <= options | {"--help"}, line
