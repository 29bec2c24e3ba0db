"""The runner of commands in this process. typer makes the tree of all commands anew at each call: here it is made once.

That is a tenth of a second for each of hundreds of commands.
"""

from __future__ import annotations

from functools import lru_cache

import typer.testing

typer.testing._get_command = lru_cache(maxsize=8)(typer.testing._get_command)
CliRunner = typer.testing.CliRunner
