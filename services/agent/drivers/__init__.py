"""Drivers: what runs tasks. This file is the registry: which drivers there are, and how one is made by name.

The built-in ones stand in ``BUILT_IN``; others come from the entry point group ``swarmbus.drivers``, whose name is the driver's
name and whose object is a class that needs no arguments. A driver's module is imported only when it is made.
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import entry_points

from services.agent.drivers.api import API_VERSION, Driver
from services.kit.errors import InvalidArgument, Problem

BUILT_IN = {
    "process": "services.agent.drivers.process:ProcessDriver",
    "docker": "services.agent.drivers.docker_driver:DockerDriver",
    "oci": "services.agent.drivers.oci:OciDriver",
    "fake": "services.agent.drivers.fake:FakeDriver",
}
ENTRY_POINTS = "swarmbus.drivers"


def known_drivers() -> tuple[str, ...]:
    """Return the names of all drivers that could be made, built-in ones first."""
    installed = {point.name for point in entry_points(group=ENTRY_POINTS)}
    return (*BUILT_IN, *sorted(installed - BUILT_IN.keys()))


def make_driver(name: str) -> Driver:
    """Return a new driver, not loaded; raises InvalidArgument when there is none of this name or it is of another API."""
    factory = _find(name)
    driver: Driver = factory()
    if driver.api != API_VERSION:
        reason = f"driver {name} speaks version {driver.api} of the driver contract, this agent {API_VERSION}"
        raise InvalidArgument.of((Problem(path="drivers", reason=reason, value=name),))
    return driver


def _find(name: str) -> type[Driver]:
    if name in BUILT_IN:
        module, _, attribute = BUILT_IN[name].partition(":")
        found: type[Driver] = getattr(import_module(module), attribute)
        return found
    for point in entry_points(group=ENTRY_POINTS, name=name):
        loaded: type[Driver] = point.load()
        return loaded
    hint = f"known are {', '.join(known_drivers())}"
    raise InvalidArgument.of((Problem(path="drivers", reason="there is no such driver", value=name, hint=hint),))
