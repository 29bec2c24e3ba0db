"""What is found out about this machine when the brokers' files are rendered."""

from __future__ import annotations

from pathlib import Path

from service.brokers.mosquitto.plan import PLUGIN
from service.installation import installed_plugin


def test_the_plugin_is_found_in_the_folder_of_any_architecture(tmp_path: Path) -> None:
    assert installed_plugin(tmp_path) == PLUGIN
    folder = tmp_path / "aarch64-linux-gnu"
    folder.mkdir()
    (folder / PLUGIN.name).touch()
    assert installed_plugin(tmp_path) == folder / PLUGIN.name
