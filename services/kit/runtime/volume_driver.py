"""Speaking with a volume driver: a program that is run once for each step, with JSON in and out. docs/volume-drivers.md is its contract.

Used by the dispatcher (the swarm's steps: create, delete, attach, detach) and by the agent (the node's: info, stage, publish, unpublish,
unstage). Every step may be repeated; a driver that takes longer than ``STEP_S`` is killed with all that it started.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
from pathlib import Path
from typing import TypeVar

import msgspec

from services.kit.errors import DeadlineExceeded, FailedPrecondition, NotFound
from services.kit.model.value import Value
from services.kit.model.volumes import AccessMode, CapacityRange, Topology, TopologyRequirement

PROTOCOL = 1
STEP_S = 15.0
ANSWER_BYTES_MAX = 1 << 20
RETRY_FIRST_S = 0.1
RETRY_MAX_S = 600.0
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_KEPT = ("PATH", "HOME", "LANG", "TZ")


class DriverInfo(Value, frozen=True, kw_only=True):
    """What a driver says of itself (step ``info``)."""

    protocol: int = PROTOCOL
    controller: bool = True
    """It makes volumes (create, delete); without that, a volume's own id is its name."""
    attaches: bool = False
    """It lets nodes use a volume one by one (attach, detach)."""
    stages: bool = False
    """A node has to stage a volume before it is published (stage, unstage)."""
    node_id: str = ""
    volumes_max: int = 0
    topology: Topology = Topology()


class StepRequest(Value, frozen=True, kw_only=True):
    """What a driver is told; each step has the fields it needs, the others are left out."""

    protocol: int = PROTOCOL
    name: str = ""
    volume_id: str = ""
    options: dict[str, str] = {}
    access_mode: AccessMode = AccessMode()
    capacity: CapacityRange = CapacityRange()
    accessibility: TopologyRequirement = TopologyRequirement()
    secrets: dict[str, str] = {}
    """Data of the volume's secrets by key, in base64."""
    node_id: str = ""
    volume_context: dict[str, str] = {}
    publish_context: dict[str, str] = {}
    staging_path: str = ""
    target_path: str = ""
    read_only: bool = False


class StepAnswer(Value, frozen=True, kw_only=True):
    """What a driver answers; empty output is an answer that says nothing."""

    volume_id: str = ""
    capacity_bytes: int = 0
    context: dict[str, str] = {}
    accessible_topology: tuple[Topology, ...] = ()
    path: str = ""
    """With ``publish``: where the volume is, if not at ``target_path``."""


AnswerT = TypeVar("AnswerT", DriverInfo, StepAnswer)


class VolumeDriver:
    """One driver program of this machine."""

    def __init__(self, program: Path, step_s: float = STEP_S) -> None:
        self._program = program
        self._step_s = step_s

    async def info(self) -> DriverInfo:
        """Ask what it is; raises what ``step`` raises."""
        return self._decoded(await self._run("info", b"{}"), DriverInfo)

    async def step(self, name: str, request: StepRequest) -> StepAnswer:
        """Run one step; raises FailedPrecondition with the driver's last word, DeadlineExceeded, NotFound."""
        return self._decoded(await self._run(name, msgspec.json.encode(request)), StepAnswer)

    async def _run(self, step: str, given: bytes) -> bytes:
        environment = {name: os.environ[name] for name in _KEPT if name in os.environ}
        try:
            process = await asyncio.create_subprocess_exec(
                str(self._program),
                step,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                env=environment,
                cwd="/",
                start_new_session=True,
                limit=ANSWER_BYTES_MAX,
            )
        except FileNotFoundError:
            raise NotFound(f"there is no volume driver {self._program}") from None
        except OSError as error:
            raise FailedPrecondition(f"{self._program.name} cannot be run: {error.strerror}") from error
        try:
            async with asyncio.timeout(self._step_s):
                said, complaints = await process.communicate(given)
        except TimeoutError:
            raise DeadlineExceeded(f"{self._program.name} {step} takes longer than {self._step_s:g} s") from None
        finally:
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                await process.wait()
        if process.returncode:
            words = complaints.decode(errors="replace").strip().splitlines()
            last = words[-1][:500] if words else f"ended with {process.returncode}"
            raise FailedPrecondition(f"{self._program.name} {step}: {last}")
        return said[:ANSWER_BYTES_MAX]

    def _decoded(self, said: bytes, kind: type[AnswerT]) -> AnswerT:
        try:
            return msgspec.json.decode(said.strip() or b"{}", type=kind)
        except msgspec.MsgspecError as error:
            raise FailedPrecondition(f"{self._program.name} answers what is no answer: {error}") from error


def find_driver(directory: Path, name: str) -> VolumeDriver:
    """Return a driver by name; raises NotFound."""
    program = directory / name
    if not _NAME.fullmatch(name) or not os.access(program, os.X_OK) or not program.is_file():
        raise NotFound(f"there is no volume driver {name!r} in {directory}")
    return VolumeDriver(program)


def driver_names(directory: Path) -> tuple[str, ...]:
    """Return the names of the drivers in a directory."""
    try:
        entries = sorted(entry.name for entry in os.scandir(directory) if entry.is_file())
    except OSError:
        return ()
    return tuple(name for name in entries if _NAME.fullmatch(name) and os.access(directory / name, os.X_OK))
