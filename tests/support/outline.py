"""Writes service/cli/outline.py anew: `python -m tests.support.outline`, after a command or its first line has changed."""

from __future__ import annotations

import json
from pathlib import Path

import typer

from service.cli import nouns, outline
from service.cli.main import app

HEAD = '''"""What help says of the commands: the first line of each, and of a group its own under the empty name.

Made from the commands by `python -m tests.support.outline`; a test compares.
"""

from __future__ import annotations

'''


def written() -> str:
    made = nouns.outline_of(typer.main.get_command(app))
    return f"{HEAD}OUTLINE: dict[str, str | dict[str, str]] = {json.dumps(made, indent=4, ensure_ascii=False)}\n"


if __name__ == "__main__":
    Path(outline.__file__).write_text(written(), "utf-8")
