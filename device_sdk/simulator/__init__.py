"""Virtual devices for trials, tests and load: the real core on the real driver, with memory for flash."""

from device_sdk.simulator.device import PowerPlan, VirtualDevice
from device_sdk.simulator.faults import FaultPlan, FaultyTransport
from device_sdk.simulator.fleet import Fleet, Summary
from device_sdk.simulator.multiplex import MultiplexTransport
from device_sdk.simulator.record import Reply

__all__ = [
    "FaultPlan",
    "FaultyTransport",
    "Fleet",
    "MultiplexTransport",
    "PowerPlan",
    "Reply",
    "Summary",
    "VirtualDevice",
]
