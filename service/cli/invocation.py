"""What one invocation of the command has been told before its noun is known: the configuration, and what it is called.

Apart from context.py because `firstlight --help` needs neither database nor settings. Imports nothing of the service.
"""

from __future__ import annotations

from contextvars import ContextVar
from pathlib import Path

CONFIG = Path("firstlight.toml")
chosen_config: ContextVar[Path] = ContextVar("chosen_config", default=CONFIG)  # main's callback sets it
command_name: ContextVar[str] = ContextVar(
    "command_name", default="change"
)  # such as `product create`; main.py sets it
