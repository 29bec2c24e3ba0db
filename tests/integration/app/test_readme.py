"""The README's commands, as they stand there: a newcomer gets from nothing to a device that was replaced."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.installation import clean_environment
from tests.support.ports import free_ports

TOP = Path(__file__).parents[3]
WITHIN_S = 420  # two dozen processes, one after the other: 25 s of one processor

pytestmark = [pytest.mark.mosquitto, pytest.mark.long]

# What a newcomer has and the page does not write: other ports, as these may be taken here, and a fleet.
OTHER_PORTS = """
python - <<'END'
import getpass, re
from pathlib import Path
ports = iter("PORTS".split())
config = Path("firstlight.toml")
user = f'run_as = "{getpass.getuser()}"'
text = re.sub(r"^run_as = .*$", user, config.read_text(), flags=re.M)
config.write_text(re.sub(r"^(port = |.*\\bport = )\\d+", lambda found: found[1] + next(ports), text, flags=re.M))
END
firstlight broker render
printf 'serial,group\\nF-1,plant-7\\nF-2,plant-7\\n' > devices.csv
"""


def commands() -> str:
    """Every block of the five steps, in order. A dry run ends with 1 where some device would be refused."""
    text = (TOP / "README.md").read_text()
    steps = text[text.index("## Five things to do next") : text.index("## How fast")]
    lines = "".join(re.findall(r"^```\n(.*?)^```", steps, re.MULTILINE | re.DOTALL)).splitlines()
    made = next(number for number, line in enumerate(lines) if line.startswith("firstlight init"))
    ports = OTHER_PORTS.replace("PORTS", " ".join(map(str, free_ports(12))))
    lines = [re.sub(r" *(#.*)?$", " || [ $? = 1 ]", line) if "--dry-run" in line else line for line in lines]
    return "\n".join(["set -e", *lines[: made + 1], ports, *lines[made + 1 :]])


@pytest.mark.timeout(WITHIN_S + 30)
def test_a_newcomer_follows_the_five_steps_word_by_word(tmp_path: Path) -> None:
    environment = clean_environment() | {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(TOP),
    }
    said = (tmp_path / "said").open("w+")
    script = commands() + "\necho WELL; firstlight device show plant-7/T-0002; firstlight device show plant-7/T-0001\n"
    shell = subprocess.Popen(
        ["bash", "-c", script], cwd=tmp_path, env=environment, stdout=said, stderr=said, start_new_session=True
    )
    try:
        code = shell.wait(WITHIN_S)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(shell.pid, signal.SIGTERM)  # the brokers and the service that it has left in the background
        said.seek(0)
        text = said.read()
        said.close()
    assert code == 0, text[-5000:]
    steps, _, shown = text.partition("\nWELL\n")
    assert re.search(r"replaced.*T-000[12]", steps), steps[-3000:]
    assert shown.count("plant-7/T-0001 -> plant-7/T-0002") == 2
    assert list((tmp_path / "trial" / "saved").iterdir())
