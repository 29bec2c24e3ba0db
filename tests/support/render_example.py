"""Writes broker_config/example: what `firstlight broker render` makes, without its secrets. A test compares."""

from __future__ import annotations

from pathlib import Path

from service.brokers.mosquitto.acl import render_acl
from service.brokers.mosquitto.plan import BrokerPlan, Listener
from service.brokers.mosquitto.render import configuration
from service.mqtt.port import EVERYWHERE

EXAMPLE = Path(__file__).parents[2] / "broker_config" / "example"
PLAN = BrokerPlan(
    environment="local",
    directory=Path("/var/lib/firstlight/data/broker/local"),
    hostnames=("mqtt.example.org",),
    bootstrap=Listener(8884),
    bootstrap_service_port=18841,
    operational_service_port=18831,
    api_key=Listener(8883),
    x509=Listener(8885),
)


def example() -> dict[str, str]:
    """File name below broker_config/example -> text."""
    texts = {}
    for role in EVERYWHERE:
        texts[f"{role.value}/mosquitto.conf"] = configuration(PLAN, role)
        texts[f"{role.value}/acl"] = render_acl(role, PLAN.root)
    return texts


if __name__ == "__main__":
    for name, text in example().items():
        (EXAMPLE / name).parent.mkdir(parents=True, exist_ok=True)
        (EXAMPLE / name).write_text(text)
