"""One swarm of four nodes on one machine, used as the README tells a new user to, and robbed of one process after the other.

The nodes are shared by all tests of this file, which leave them as they found them: four ready nodes, and ``web`` with three tasks.
"""

from __future__ import annotations

import http.client
import os
import re
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from services.kit.errors import SwarmError
from services.kit.messages.control import Filters
from services.kit.model.objects import Task
from services.kit.model.states import NodeState, TaskState
from tests.support.ports import free_remote_api
from tests.support.swarm import Swarm, SwarmNode, run_swarmctl, wait_until

pytestmark = pytest.mark.process
WEB = ("python3", "-m", "http.server", "{{.Task.Port}}")
MANAGER_PROCESSES = ("ca", "raft", "dispatcher", "gateway", "agent")
WORKER_PROCESSES = ("gateway", "agent")


class Town:
    """The four nodes and the published port of ``web``."""

    def __init__(self, swarm: Swarm) -> None:
        self.swarm = swarm
        self.port = int(free_remote_api().rpartition(":")[2])

    def node(self, name: str) -> SwarmNode:
        return self.swarm.nodes[name]

    @property
    def managers(self) -> list[SwarmNode]:
        return [self.node(name) for name in ("n1", "n2", "n3")]

    def survivor(self, gone: SwarmNode) -> SwarmNode:
        return next(node for node in self.managers if node is not gone and node.running)

    def web(self) -> list[Task]:
        """Return the tasks of ``web`` that run and shall; none while nobody can say."""
        try:
            with next(node for node in self.managers if node.running).client() as client:
                service = client.services.get("web")
                tasks = client.tasks.list(Filters(service_ids=(service.id,)))
        except SwarmError:
            return []
        return [
            task for task in tasks if task.status.state is TaskState.RUNNING and task.desired_state is TaskState.RUNNING
        ]

    def pids(self) -> dict[str, int]:
        return {task.id: task.status.pid for task in self.web()}

    def ready(self) -> set[str]:
        try:
            with next(node for node in self.managers if node.running).client() as client:
                return {
                    node.description.hostname for node in client.nodes.list() if node.status.state is NodeState.READY
                }
        except SwarmError:
            return set()

    def settled(self) -> bool:
        return len(self.web()) == 3 and self.ready() == {"n1", "n2", "n3", "n4"}


@pytest.fixture(scope="module")
def town(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Town]:
    with Swarm(tmp_path_factory.mktemp("town")) as swarm:
        town = Town(swarm)
        first = swarm.start("n1")
        tokens = dict(re.findall(r"(worker|manager):\s+(SWMTKN-1-\S+)", first.swarmctl("cluster", "inspect")))
        for name, role in (("n2", "manager"), ("n3", "manager"), ("n4", "worker")):
            join = ("--join-addr", first.remote_api, "--join-token", tokens[role])
            swarm.node(name, *join).start(wait=False)
        for node in swarm.nodes.values():
            node.wait_ready()
        create = ("service", "create", "--name", "web", "--replicas", "3", "--publish", f"{town.port}:80")
        assert "3 out of 3 tasks, converged" in spoken(first, *create, "--driver", "process", "--", *WEB)
        yield town


@pytest.fixture(autouse=True)
def as_found(town: Town, request: pytest.FixtureRequest) -> Iterator[None]:
    """Begin with a whole swarm; show the logs of a test that failed."""
    for node in town.swarm.nodes.values():
        if not node.running:
            node.start()
    wait_until(town.settled, "all nodes are ready and web runs")
    failed = request.session.testsfailed
    yield
    if request.session.testsfailed > failed:
        sys.stderr.write("\n".join(node.log_end() for node in town.swarm.nodes.values()) + "\n")


def spoken(node: SwarmNode, *words: str) -> str:
    """Return everything that a successful swarmctl said."""
    done = run_swarmctl("-s", node.control_socket, *words)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def get(port: int) -> int:
    """Ask for a page as curl does; returns the status."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", "/", headers={"Connection": "close"})
        return connection.getresponse().status
    finally:
        connection.close()


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


# -- what a new user types


def test_every_node_answers_the_published_port_and_any_task_may_answer(town: Town) -> None:
    def all_have_answered() -> bool:
        assert get(town.port) == 200
        lines = spoken(town.node("n1"), "service", "logs", "web").splitlines()
        served = {line.split("@")[0] for line in lines if '"GET / HTTP/1.1" 200' in line}
        return served == {"web.1", "web.2", "web.3"}

    wait_until(all_have_answered, "each task has answered a request")


def test_service_ls_and_ps_show_what_runs_and_where(town: Town) -> None:
    for node in town.managers:
        listed = node.swarmctl("service", "ls")
        assert re.search(rf"web\s+replicated\s+3/3\s+process: python3.*\*:{town.port}->80/tcp", listed), listed
        shown = node.swarmctl("service", "ps", "web")
        rows = re.findall(r"web\.(\d)\s+(n\d)\s+Running\s+Running", shown)
        assert sorted(slot for slot, _ in rows) == ["1", "2", "3"], shown
        assert {name for _, name in rows} <= {"n1", "n2", "n3", "n4"}


def test_node_ls_shows_every_node_its_part_and_who_leads(town: Town) -> None:
    leader = town.swarm.leader()
    rows = town.node("n2").swarmctl("node", "ls").splitlines()[1:]
    parts = {name: part for row in rows for name, part in re.findall(r"(n\d)\s+Ready\s+Active\s+(\w+)", row)}
    assert parts[leader.name] == "Leader"
    assert sorted(parts[node.name] for node in town.managers) == ["Leader", "Reachable", "Reachable"]
    assert parts["n4"] not in {"Leader", "Reachable"}
    assert [row.split()[2] for row in rows if " * " in row] == ["n2"], "the node that answers has a star"


def test_scale_changes_the_number_of_tasks_and_keeps_those_that_stay(town: Town) -> None:
    before = town.pids()
    assert "6 out of 6 tasks, converged" in spoken(town.node("n3"), "service", "scale", "web=6")
    assert len(town.web()) == 6
    assert before.items() <= town.pids().items()
    assert "3 out of 3 tasks, converged" in spoken(town.node("n3"), "service", "scale", "web=3")
    gone = set(before.values()) - set(town.pids().values())
    wait_until(lambda: not any(alive(pid) for pid in gone), "the tasks that were given up have ended")


def test_a_removed_service_is_gone_and_its_port_closed(town: Town) -> None:
    port = int(free_remote_api().rpartition(":")[2])
    first = town.node("n1")
    made = ("--name", "brief", "--replicas", "2", "--publish", f"{port}:80", "--driver", "process", "--", *WEB)
    first.swarmctl("service", "create", *made)
    with first.client() as client:
        service = client.services.get("brief")
        pids = [task.status.pid for task in client.tasks.list(Filters(service_ids=(service.id,)))]
    assert len(pids) == 2
    assert get(port) == 200
    town.node("n2").swarmctl("service", "rm", "brief")
    assert "brief" not in first.swarmctl("service", "ls")
    wait_until(lambda: not any(alive(pid) for pid in pids), "its tasks have ended")

    def closed() -> bool:
        try:
            get(port)
        except ConnectionRefusedError:
            return True
        except (OSError, http.client.HTTPException):
            return False
        return False

    wait_until(closed, "its port is closed on every node")
    assert "no service" in first.swarmctl("service", "ps", "brief", code=3)


# -- what kill -9 does


def test_a_killed_task_is_replaced(town: Town) -> None:
    victim = town.web()[0]
    os.kill(victim.status.pid, signal.SIGKILL)

    def replaced() -> list[Task]:
        return [task for task in town.web() if task.slot == victim.slot and task.id != victim.id]

    wait_until(lambda: len(replaced()) == 1 and town.settled(), "another task is in its place")
    assert alive(replaced()[0].status.pid)
    wait_until(lambda: get(town.port) == 200, "the service answers")
    assert "Failed" in town.node("n1").swarmctl("service", "ps", "web")


@pytest.mark.parametrize(
    ("name", "process"),
    [*(("leader", process) for process in MANAGER_PROCESSES), *(("n4", process) for process in WORKER_PROCESSES)],
)
def test_any_killed_process_of_a_node_is_back_and_no_task_noticed(town: Town, name: str, process: str) -> None:
    node = town.swarm.leader() if name == "leader" else town.node(name)
    tasks, before = town.pids(), node.status()
    node.kill_process(process)

    def back() -> bool:
        after = node.status()
        states = {each.process: each.state for each in after.processes}
        return after.pid_of(process) not in {0, before.pid_of(process)} and set(states.values()) == {"ready"}

    wait_until(back, f"{process} serves again")
    wait_until(lambda: town.settled() and town.pids() == tasks, "everything is as it was")
    others = {each.process: each.pid for each in before.processes if each.process != process}
    assert {each.process: each.pid for each in node.status().processes if each.process != process} == others
    assert get(town.port) == 200


@pytest.mark.parametrize("name", ["leader", "n4"])
def test_a_killed_supervisor_takes_no_task_along_and_its_successor_finds_them(town: Town, name: str) -> None:
    node = town.swarm.leader() if name == "leader" else town.node(name)
    tasks, before = town.pids(), node.status()
    node.kill_process("supervisor")
    assert all(alive(pid) for pid in tasks.values())
    node.start()
    wait_until(lambda: town.settled() and town.pids() == tasks, "the same tasks run")
    after = node.status()
    assert (after.node_id, after.role) == (before.node_id, before.role)
    assert after.pid not in {0, before.pid}


@pytest.mark.parametrize("which", ["the leader", "another manager"])
def test_after_the_loss_of_a_manager_the_next_write_succeeds_and_it_comes_back(town: Town, which: str) -> None:
    leader = town.swarm.leader()
    lost = leader if which == "the leader" else town.survivor(leader)
    before = lost.status()
    lost.kill()
    survivor = town.survivor(lost)
    spoken(survivor, "service", "update", "web", "--detach", "--label-add", f"written.without={lost.name}")
    with survivor.client() as client:
        assert client.services.get("web").spec.annotations.labels["written.without"] == lost.name
    lost.start()
    wait_until(town.settled, "the lost manager is back")
    after = lost.status()
    assert (after.node_id, after.cluster_id, after.role) == (before.node_id, before.cluster_id, before.role)
    assert lost.swarmctl("node", "ls").count("Reachable") == 2, "it votes again"


def test_a_node_that_was_stopped_politely_is_the_same_node_again(town: Town) -> None:
    worker = town.node("n4")
    before = worker.status()
    assert worker.stop() == 0
    worker.start()
    assert worker.status().node_id == before.node_id


# -- what is typed wrongly


def test_a_spec_with_five_mistakes_has_all_five_named_with_a_hint_and_changes_nothing(town: Town) -> None:
    first = town.node("n1")
    before = first.swarmctl("service", "ls")
    wrong = {
        "--name": ("no spaces please", "annotations.name"),
        "--constraint": ("what", "task.placement.constraints[0]"),
        "--limit-cpu": ("lots", "--limit-cpu"),
        "--update-max-failure-ratio": ("7", "--update-max-failure-ratio"),
        "--restart-delay": ("soon", "--restart-delay"),
    }
    words = [word for flag, (value, _) in wrong.items() for word in (flag, value)]
    said = first.swarmctl("service", "create", *words, "--driver", "process", "--", "true", code=2)
    assert "there are 5 mistakes" in said
    for value, path in wrong.values():
        assert re.search(rf"^  {re.escape(path)}: .*\(got {value}\)\n    hint: ", said, re.MULTILINE), said
    assert "Traceback" not in said
    assert first.swarmctl("service", "ls") == before


def test_a_control_socket_that_nobody_listens_on_is_said_with_what_to_do(tmp_path: Path) -> None:
    done = run_swarmctl("-s", str(tmp_path / "nobody.sock"), "service", "ls")
    assert done.returncode == 5
    assert str(tmp_path / "nobody.sock") in done.stderr
    assert "supervisor up" in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())


def test_an_unknown_flag_of_swarmctl_is_refused_and_changes_nothing(town: Town) -> None:
    first = town.node("n1")
    before = first.swarmctl("service", "inspect", "web", "--json")
    assert "did you mean --replicas" in first.swarmctl("service", "update", "web", "--replica", "9", code=2)
    assert first.swarmctl("service", "inspect", "web", "--json") == before
