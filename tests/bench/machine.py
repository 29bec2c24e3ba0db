"""What the figures were measured on, and what a process takes: read from /proc, so Linux only."""

import os
import platform
import re
import subprocess
from importlib.metadata import version
from pathlib import Path


def describe() -> dict:
    """Cores, processor, memory and versions; no host name, no path."""
    cpu = re.search(r"model name\s*: (.*)", _read("/proc/cpuinfo"))
    memory = re.search(r"MemTotal:\s*(\d+)", _read("/proc/meminfo"))
    return {
        "cores": len(os.sched_getaffinity(0)),
        "processor": cpu[1] if cpu else platform.machine(),
        "memory_gib": round(int(memory[1]) / 2**20) if memory else None,
        "python": platform.python_version(),
        "aiomqtt": version("aiomqtt"),
        "mosquitto": _mosquitto_version(),
        "load_before": round(os.getloadavg()[0], 2),
    }


def memory_mib(pid: int) -> dict:
    """Resident memory of one process now and at its highest, in MiB."""
    status = _read(f"/proc/{pid}/status")
    found = dict(re.findall(r"^(VmRSS|VmHWM):\s*(\d+) kB$", status, re.MULTILINE))
    return {"rss_mib": round(int(found["VmRSS"]) / 1024, 1), "peak_mib": round(int(found["VmHWM"]) / 1024, 1)}


def _mosquitto_version() -> str:
    path = os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"))
    try:
        done = subprocess.run(["mosquitto", "-h"], capture_output=True, text=True, check=False, env={"PATH": path})
    except FileNotFoundError:
        return "not installed"
    found = re.search(r"version (\S+)", done.stdout)
    return found[1] if found else "unknown"


def _read(path: str) -> str:
    return Path(path).read_text(encoding="utf-8", errors="replace")
