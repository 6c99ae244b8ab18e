"""Looks at the machine: what ``core.describe`` is told of it."""

from __future__ import annotations

import os
import platform
import socket
from pathlib import Path

from services.agent.config import AgentSettings
from services.agent.core.describe import MachineFacts

NANO = 1_000_000_000
_CGROUP_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


def read_machine(settings: AgentSettings) -> MachineFacts:
    """Return the facts, with what the settings say instead."""
    return MachineFacts(
        hostname=settings.hostname or socket.gethostname(),
        architecture=platform.machine(),
        os=platform.system(),
        nano_cpus=settings.nano_cpus or len(os.sched_getaffinity(0)) * NANO,
        memory_bytes=settings.memory_bytes or _memory_bytes(),
    )


def _memory_bytes() -> int:
    """Return the machine's memory, or the limit of the control group around us when that is less."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for name in _CGROUP_LIMITS:
        path = Path(name)
        text = path.read_text(encoding="ascii").strip() if path.exists() else ""
        if text.isdecimal():
            memory = min(memory, int(text))
    return memory
