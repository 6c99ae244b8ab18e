"""What every process of a node measures, read where Prometheus reads it."""

from __future__ import annotations

import re
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from swarmbus import service_spec
from tests.support.ports import free_remote_api
from tests.support.swarm import Swarm, wait_until

pytestmark = pytest.mark.process


def read(address: str, path: str = "/metrics") -> str:
    with urllib.request.urlopen(f"http://{address}{path}", timeout=5) as reply:
        text: str = reply.read().decode()
    return text


def value(text: str, series: str) -> float | None:
    found = re.search(rf"^{re.escape(series)} (\S+)$", text, re.MULTILINE)
    return float(found[1]) if found else None


def test_every_process_tells_what_it_measures(tmp_path: Path) -> None:
    address = free_remote_api()
    with Swarm(tmp_path) as swarm:
        node = swarm.start("n1", "--listen-metrics", address)
        with node.client() as client:
            client.services.create(service_spec("nap", command=("sleep", "1000"), replicas=2))
            client.services.wait("nap", timeout_s=20)
        wait_until(
            lambda: value(read(address), 'swarm_manager_tasks_total{state="running"}') == 2, "the tasks are counted"
        )
        wait_until(
            lambda: (value(read(address), 'swarm_raft_transaction_latency_seconds_count{process="raft"}') or 0) >= 3,
            "raft tells what it has measured",
        )
        text = read(address)
        for process in ("supervisor", "raft", "ca", "dispatcher", "gateway", "agent"):
            assert value(text, f'process_resident_memory_bytes{{process="{process}"}}'), process
        assert value(text, "swarm_manager_leader") == 1
        assert value(text, "swarm_node_manager") == 1
        assert value(text, 'swarm_manager_nodes{state="ready"}') == 1
        assert value(text, "swarm_manager_services_total") == 1
        assert value(text, 'swarm_dispatcher_scheduling_delay_seconds_count{process="dispatcher"}') == 2
        created = 'swarmbus_call_seconds_count{process="dispatcher",method="control.create_service",code="OK"}'
        assert value(text, created) == 1
        families = re.findall(r"^# TYPE (\S+)", text, re.MULTILINE)
        assert len(families) == len(set(families))
        with pytest.raises(urllib.error.HTTPError, match="404"):
            read(address, "/")
