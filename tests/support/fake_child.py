"""A child process for the supervisor's tests: the real lifecycle around an app that does as a file tells it.

Run as ``python fake_child.py <name>``. ``<state>/behave/<name>`` may say: ``assert`` (a broken invariant at start), ``locked``, ``deaf`` (does
not stop when asked), ``slow`` (never ready). The fake gateway answers on the control socket as a real one does.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from services.kit.bus.api import Context
from services.kit.bus.rpc import Table
from services.kit.errors import FailedPrecondition
from services.kit.lifecycle.app import Runtime
from services.kit.lifecycle.process import run_process
from services.kit.lifecycle.settings import ProcessSettings
from services.kit.messages import control
from services.kit.model.objects import Cluster


class FakeSettings(ProcessSettings, frozen=True, kw_only=True):
    """What a fake child reads."""

    listen_control_api: str = ""


class FakeApp:
    """Serves nothing, or what its file says."""

    def __init__(self, settings: FakeSettings, runtime: Runtime) -> None:
        self._settings = settings
        self._runtime = runtime
        path = settings.state_dir / "behave" / runtime.process
        self._behaviour = path.read_text() if path.exists() else ""

    async def start(self) -> None:
        """Begin as told."""
        assert self._behaviour != "assert", "told to break"
        if self._behaviour == "locked":
            raise FailedPrecondition("told to be locked")
        if self._behaviour == "slow":
            await asyncio.Event().wait()
        if self._runtime.process == "gateway":
            table = Table(trusted=True)
            table.on_call(control.GET_CLUSTER, self._cluster)
            await self._runtime.bus.listen_local(self._settings.listen_control_api, table)

    async def serve(self) -> None:
        """Wait."""
        if self._behaviour == "deaf":
            asyncio.get_running_loop().remove_signal_handler(signal.SIGTERM)
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        await asyncio.Event().wait()

    async def stop(self) -> None:
        """Leave a mark that the end was a polite one."""
        (self._settings.state_dir / f"stopped-{self._runtime.process}").touch()

    async def _cluster(self, context: Context, request: control.GetRequest) -> control.ClusterReply:
        return control.ClusterReply(cluster=Cluster(id=self._runtime.node.facts.cluster_id))


if __name__ == "__main__":
    run_process(sys.argv[1], FakeSettings, FakeApp)
