"""What the Docker engine tells of a container, read into values. Pure; used by the docker driver."""

from __future__ import annotations

from datetime import datetime

import msgspec

from services.agent.core.ports import PortNeed
from services.agent.drivers.api import Exit, Stats
from services.kit.model.objects import PortStatus

SIGKILL = 9


class Binding(msgspec.Struct, frozen=True):
    """Where a container's port is bound on the node."""

    ip: str = msgspec.field(default="", name="HostIp")
    port: str = msgspec.field(default="", name="HostPort")


class Health(msgspec.Struct, frozen=True):
    """What the engine's health check says."""

    status: str = msgspec.field(default="", name="Status")


class State(msgspec.Struct, frozen=True):
    """A container's state."""

    status: str = msgspec.field(default="", name="Status")
    pid: int = msgspec.field(default=0, name="Pid")
    exit_code: int = msgspec.field(default=0, name="ExitCode")
    oom_killed: bool = msgspec.field(default=False, name="OOMKilled")
    error: str = msgspec.field(default="", name="Error")
    started_at: str = msgspec.field(default="", name="StartedAt")
    finished_at: str = msgspec.field(default="", name="FinishedAt")
    health: Health | None = msgspec.field(default=None, name="Health")


class Config(msgspec.Struct, frozen=True):
    """A container's configuration, as far as it is read back."""

    labels: dict[str, str] | None = msgspec.field(default=None, name="Labels")
    stop_signal: str = msgspec.field(default="", name="StopSignal")
    tty: bool = msgspec.field(default=False, name="Tty")


class Attachment(msgspec.Struct, frozen=True):
    """A container on a network."""

    address: str = msgspec.field(default="", name="IPAddress")


class NetworkSettings(msgspec.Struct, frozen=True):
    """A container's ports."""

    ports: dict[str, list[Binding] | None] | None = msgspec.field(default=None, name="Ports")
    networks: dict[str, Attachment] | None = msgspec.field(default=None, name="Networks")

    @property
    def address(self) -> str:
        """Return where the container is reached from its node; empty when it has no address of its own."""
        return next((each.address for _, each in sorted((self.networks or {}).items()) if each.address), "")


class Inspected(msgspec.Struct, frozen=True):
    """A container as the engine knows it."""

    id: str = msgspec.field(name="Id")
    state: State = msgspec.field(name="State")
    config: Config = msgspec.field(name="Config")
    network: NetworkSettings = msgspec.field(name="NetworkSettings")

    @property
    def started(self) -> bool:
        """Tell whether it ever ran."""
        return not self.state.started_at.startswith("0001-") and self.state.status not in {"created", ""}

    @property
    def ended(self) -> bool:
        """Tell whether it ran and ended."""
        return self.state.status in {"exited", "dead"}

    @property
    def unhealthy(self) -> bool:
        """Tell whether its health check has given up."""
        return self.state.health is not None and self.state.health.status == "unhealthy"

    @property
    def has_check(self) -> bool:
        """Tell whether the engine asks it for its health."""
        return self.state.health is not None and self.state.health.status not in {"none", ""}

    @property
    def healthy(self) -> bool:
        """Tell whether its health check has been answered well."""
        return self.state.health is not None and self.state.health.status == "healthy"


def exit_of(seen: Inspected) -> Exit:
    """Return how a container ended. The engine gives signals as 128 + n, indistinguishable from an exit code: they stay codes."""
    state = seen.state
    finished_at = timestamp(state.finished_at)
    if state.oom_killed:
        return Exit(signal=SIGKILL, oom=True, finished_at=finished_at)
    return Exit(code=state.exit_code, finished_at=finished_at, message=f"task: {state.error}" if state.error else "")


def timestamp(text: str) -> float:
    """Return the seconds since the epoch of the engine's time; 0 for its zero time or nonsense."""
    try:
        return max(0.0, datetime.fromisoformat(text).timestamp())
    except (ValueError, OverflowError):
        return 0.0


def port_key(need: PortNeed) -> str:
    """Return how the engine names a port."""
    return f"{need.target_port}/{need.protocol.value}"


def port_statuses(ports: tuple[PortNeed, ...], seen: Inspected, *, host_network: bool) -> tuple[PortStatus, ...]:
    """Return where the ports of a task are reached on its node."""
    bound = seen.network.ports or {}
    found: list[PortStatus] = []
    for need in ports:
        bindings = bound.get(port_key(need)) or []
        number = need.target_port if host_network else int(bindings[0].port) if bindings else 0
        if number:
            found.append(
                PortStatus(name=need.name, target_port=need.target_port, port=number, protocol=need.protocol.value)
            )
    return tuple(found)


class _CpuUsage(msgspec.Struct, frozen=True):
    total: int = msgspec.field(default=0, name="total_usage")


class _Cpu(msgspec.Struct, frozen=True):
    usage: _CpuUsage = msgspec.field(default=_CpuUsage(), name="cpu_usage")


class _Memory(msgspec.Struct, frozen=True):
    usage: int = 0
    stats: dict[str, int] = {}


class _Pids(msgspec.Struct, frozen=True):
    current: int = 0


class Measured(msgspec.Struct, frozen=True):
    """What a container uses, as the engine tells it."""

    cpu: _Cpu = msgspec.field(default=_Cpu(), name="cpu_stats")
    memory: _Memory = msgspec.field(default=_Memory(), name="memory_stats")
    pids: _Pids = msgspec.field(default=_Pids(), name="pids_stats")


def stats_of(measured: Measured) -> Stats:
    """Return it in our terms; what the kernel could take back at once is not counted as used memory."""
    cache = measured.memory.stats.get("total_inactive_file", measured.memory.stats.get("inactive_file", 0))
    return Stats(
        cpu_s=measured.cpu.usage.total / 1e9,
        memory_bytes=max(0, measured.memory.usage - cache),
        pids=measured.pids.current,
    )
