"""The commented firstlight.toml that `firstlight init` writes.

Owns that text and the ports it proposes; settings.py owns what is allowed in it.
"""

from __future__ import annotations

BOOTSTRAP_PORT = 8884  # Mosquitto: devices that have no credential yet, TLS
API_KEY_PORT = 8883  # Mosquitto: devices with an API key, TLS
X509_PORT = 8885  # Mosquitto: devices with a certificate, TLS
SERVICE_BOOTSTRAP_PORT = 18841  # Mosquitto: the service itself, loopback
SERVICE_OPERATIONAL_PORT = 18831
EMBEDDED_BOOTSTRAP_PORT = 1884
EMBEDDED_API_KEY_PORT = 1883

_HEAD = """\
# Firstlight: what this installation is. `firstlight serve` and every other command read this file.
# An environment variable overrides a value: FIRSTLIGHT_HTTP__PORT=9000, FIRSTLIGHT_LOG__FORMAT=json.
# Unknown keys are refused. No secret stands in this file: keys.json and the files named here hold them.

# Database, keys, certificate authority, images and the brokers' files. Relative to this file.
data_dir = "data"

# What every MQTT topic begins with, one or more levels. Devices must be given the same; so must the brokers' access
# lists: run `firstlight broker render` and restart the brokers after a change.
# topic_root = "pv1"

[storage]
# path = "firstlight.db"    # the SQLite database, relative to data_dir

[http]
# GET /health and GET /stats, without login: keep it on loopback or behind a proxy.
host = "127.0.0.1"
port = 8787

[log]
format = "text"             # or "json": one object per line
level = "info"              # debug, info, warning, error

[history]                  # how long what has happened is kept, in days
events_days = 90
commands_days = 90         # since they finished
audit_days = 400

[commands]                 # operators' commands
mass_devices = 1000        # one for more devices must say at_most
second_person = false      # true: and waits until another account resumes it

# One section per environment: a deployment with its own MQTT endpoints. Groups and devices name it.
"""

_EMBEDDED = """\
[environments.{name}]
# The service runs its own brokers: for trials, on this machine, API keys only and without TLS.
broker = "embedded"

# Where devices connect, as they see it; the embedded brokers listen here.
[environments.{name}.endpoints.bootstrap]
host = "{host}"
port = {bootstrap}
tls = false

[environments.{name}.endpoints.api_key]
host = "{host}"
port = {api_key}
tls = false
"""

_MOSQUITTO = """\
[environments.{name}]
# Two Mosquittos, configured by the files in data/broker (see README.md): one for devices that have no credential yet,
# one for those that have. `firstlight doctor` checks them.
broker = "mosquitto"

# Where devices connect, as they see it: this name must be in the brokers' certificate.
[environments.{name}.endpoints.bootstrap]
host = "{host}"
port = {bootstrap}
tls = true

[environments.{name}.endpoints.api_key]
host = "{host}"
port = {api_key}
tls = true

[environments.{name}.endpoints.x509]
host = "{host}"
port = {x509}
tls = true

# Where the service itself connects: the brokers' loopback listeners, with the login rendered for it.
[environments.{name}.links.bootstrap]
host = "127.0.0.1"
port = {service_bootstrap}

[environments.{name}.links.operational]
host = "127.0.0.1"
port = {service_operational}

[environments.{name}.mosquitto]
{run_as}# hostnames = ["10.0.0.5"]   # further names and addresses of the brokers, for their certificate
# reload_command = ["sudo", "systemctl", "reload", "firstlight-mosquitto"]   # where the service may not signal it
"""


def embedded(name: str, host: str) -> str:
    return _HEAD + embedded_section(name, host)


def mosquitto(name: str, host: str, run_as: str | None = None) -> str:
    """`run_as`: the user that Mosquitto becomes when root starts it."""
    return _HEAD + mosquitto_section(name, host, run_as)


def embedded_section(name: str, host: str, offset: int = 0) -> str:
    """One environment; `offset` is added to every port."""
    return _EMBEDDED.format(
        name=name, host=host, bootstrap=EMBEDDED_BOOTSTRAP_PORT + offset, api_key=EMBEDDED_API_KEY_PORT + offset
    )


def mosquitto_section(name: str, host: str, run_as: str | None = None, offset: int = 0) -> str:
    """The same with two Mosquittos."""
    return _MOSQUITTO.format(
        name=name,
        host=host,
        run_as=f'run_as = "{run_as}"   # the user that Mosquitto becomes when root starts it\n' if run_as else "",
        bootstrap=BOOTSTRAP_PORT + offset,
        api_key=API_KEY_PORT + offset,
        x509=X509_PORT + offset,
        service_bootstrap=SERVICE_BOOTSTRAP_PORT + offset,
        service_operational=SERVICE_OPERATIONAL_PORT + offset,
    )
