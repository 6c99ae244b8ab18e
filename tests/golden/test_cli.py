"""What swarmctl shows, held in golden files."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from services.cli.output import table_lines
from services.cli.pages import cluster_page, node_page, service_page, task_page
from services.cli.plain import to_json
from services.cli.progress import frame, overall_line, reason_lines
from services.cli.swarmctl import main
from services.cli.tables import NODE_HEADER, SERVICE_HEADER, TASK_HEADER, node_rows, service_rows, task_rows
from services.client.convergence import Progress, SlotProgress, Stage
from services.kit.messages.control import ServiceStatus, TaskReply
from services.kit.model.ids import ClusterId, NodeId, ServiceId, TaskId, spec_version_id
from services.kit.model.objects import (
    Cluster,
    Endpoint,
    JoinTokens,
    ManagerStatus,
    Meta,
    Node,
    NodeDescription,
    NodeStatus,
    PortStatus,
    RootCa,
    Service,
    SpecVersion,
    Task,
    TaskStatus,
    UpdateStatus,
)
from services.kit.model.specs import Annotations, NodeSpec, Platform, Resources, ServiceSpec
from services.kit.model.states import Availability, NodeState, Reachability, Role, TaskState, UpdateState
from swarmbus import service_spec
from tests.golden.golden import check_golden

NOW = 1_700_000_600.0
META = Meta(version=12, created_at=1_700_000_000.0, updated_at=1_700_000_300.0)
ALPHA, BETA = NodeId("a" * 25), NodeId("b" * 25)
WEB = ServiceId("w" * 25)
NODES = {ALPHA: "alpha", BETA: "beta"}


def spec() -> ServiceSpec:
    return service_spec(
        "web",
        command=("python3", "-m", "http.server", "{{.Task.Port}}"),
        replicas=3,
        ports=["8080:80", "published=53,target=53,protocol=udp,mode=host"],
        env={"MODE": "fast"},
        labels={"tier": "front"},
        constraints=["node.role==worker"],
        limits=Resources(memory_bytes=64 << 20, nano_cpus=500_000_000),
    )


def service() -> Service:
    wanted = spec()
    return Service(
        id=WEB,
        meta=META,
        spec=wanted,
        spec_version=2,
        endpoint=Endpoint(spec=wanted.endpoint, ports=wanted.endpoint.ports),
        update_status=UpdateStatus(state=UpdateState.COMPLETED, started_at=NOW - 60, completed_at=NOW - 30),
    )


def task(name: str, slot: int, state: TaskState, **more: object) -> Task:
    status = TaskStatus(state=state, timestamp=NOW - 180, **more)  # type: ignore[arg-type]
    ended = state.terminal
    return Task(
        id=TaskId(name * 25),
        meta=replace(META, created_at=NOW - (500 if ended else 180)),
        service_id=WEB,
        spec_version=2,
        slot=slot,
        node_id=None if state == TaskState.PENDING else ALPHA if slot % 2 else BETA,
        desired_state=TaskState.SHUTDOWN if ended else TaskState.RUNNING,
        status=status,
    )


def tasks() -> tuple[Task, ...]:
    return (
        task("1", 1, TaskState.RUNNING, ports=(PortStatus(target_port=80, port=20_001),), pid=77),
        task("2", 2, TaskState.RUNNING),
        task("3", 2, TaskState.FAILED, error="task: exit status 1", exit_code=1),
        task("4", 3, TaskState.PENDING, message="no suitable node (insufficient memory on 2 nodes)"),
    )


def nodes() -> tuple[Node, ...]:
    alpha = Node(
        id=ALPHA,
        meta=META,
        spec=NodeSpec(desired_role=Role.MANAGER),
        description=NodeDescription(
            hostname="alpha",
            platform=Platform(os="linux", architecture="x86_64"),
            resources=Resources(nano_cpus=2_000_000_000, memory_bytes=8 << 30),
            drivers=("docker", "process"),
        ),
        status=NodeStatus(state=NodeState.READY, addr="192.0.2.1"),
        role=Role.MANAGER,
        remote_addr="192.0.2.1:4242",
        manager_status=ManagerStatus(raft_addr="192.0.2.1:4244", leader=True, reachability=Reachability.REACHABLE),
    )
    beta = Node(
        id=BETA,
        meta=META,
        spec=NodeSpec(availability=Availability.DRAIN),
        description=NodeDescription(hostname="beta", drivers=("process",)),
        status=NodeStatus(state=NodeState.DOWN),
    )
    return alpha, beta


def text(lines: list[str]) -> str:
    return "\n".join(lines) + "\n"


def test_service_ls() -> None:
    status = ServiceStatus(service_id=WEB, desired=3, running=2)
    check_golden(
        "cli/service-ls.txt", text(table_lines(SERVICE_HEADER, service_rows([service()], [status], whole=False)))
    )


def test_service_ls_whole_and_coloured() -> None:
    status = ServiceStatus(service_id=WEB, desired=3, running=3)
    rows = service_rows([service()], [status], whole=True)
    check_golden("cli/service-ls-whole.txt", text(table_lines(SERVICE_HEADER, rows, colour=True)))


def test_service_ps() -> None:
    rows = task_rows(tasks(), names={WEB: "web"}, nodes=NODES, now=NOW, whole=False)
    check_golden("cli/service-ps.txt", text(table_lines(TASK_HEADER, rows)))


def test_service_ps_without_names() -> None:
    rows = task_rows(tasks(), names={}, nodes={}, now=NOW, whole=True)
    check_golden("cli/service-ps-ids.txt", text(table_lines(TASK_HEADER, rows)))


def test_node_ls() -> None:
    check_golden("cli/node-ls.txt", text(table_lines(NODE_HEADER, node_rows(nodes(), here=ALPHA, whole=False))))


def test_service_inspect() -> None:
    check_golden("cli/service-inspect.txt", text(service_page(service())))


def test_node_inspect() -> None:
    check_golden("cli/node-inspect.txt", text(node_page(nodes()[0])))


def test_task_inspect() -> None:
    template = SpecVersion(
        id=spec_version_id(WEB, 2), service_id=WEB, version=2, annotations=Annotations(name="web"), task=spec().task
    )
    reply = TaskReply(task=tasks()[0], spec=template)
    check_golden("cli/task-inspect.txt", text(task_page(reply, service_name="web", nodes=NODES)))


def test_cluster_inspect() -> None:
    cluster = Cluster(
        id=ClusterId("c" * 25),
        meta=META,
        root_ca=RootCa(digest="d1g35t", join_tokens=JoinTokens(worker="SWMTKN-1-w", manager="SWMTKN-1-m")),
    )
    check_golden("cli/cluster-inspect.txt", text(cluster_page(cluster)))


def test_service_as_json() -> None:
    check_golden("cli/service.json", to_json(service()) + "\n")


def progress(stage: Stage) -> Progress:
    slots = tuple(
        SlotProgress(
            slot=slot,
            node_id=ALPHA,
            task_id=TaskId("t"),
            state=state,
            current=current,
            reason=reason,
        )
        for slot, state, current, reason in (
            (1, TaskState.RUNNING, True, ""),
            (2, TaskState.STARTING, True, ""),
            (
                3,
                TaskState.PENDING,
                True,
                "no suitable node (insufficient memory on 2 nodes; scheduling constraints on 1 node)",
            ),
            (4, TaskState.RUNNING, False, ""),
        )
    )
    return Progress(service_id=WEB, name="web", stage=stage, done=1, desired=4, slots=slots, message="")


def test_progress_on_a_terminal() -> None:
    check_golden("cli/progress.txt", text(frame(progress(Stage.WORKING), width=60, colour=False)))


def test_progress_of_many_tasks_is_folded() -> None:
    one = progress(Stage.WORKING)
    many = replace(one, slots=tuple(replace(one.slots[2], slot=n) for n in range(1, 40)), desired=39, done=0)
    check_golden("cli/progress-many.txt", text(frame(many, width=60, colour=False)))


@pytest.mark.parametrize("stage", list(Stage))
def test_progress_in_a_file(stage: Stage) -> None:
    step = replace(progress(stage), message="the update is paused" if stage is Stage.FAILED else "")
    check_golden(f"cli/progress-{stage.value}.txt", text([overall_line(step), *reason_lines(step)]))


@pytest.mark.parametrize(
    ("name", "words"),
    [("top", ["--help"]), ("service", ["service", "--help"]), ("service-create", ["service", "create", "--help"])],
)
def test_help(name: str, words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 0
    check_golden(f"cli/help-{name}.txt", capsys.readouterr().out)


def test_an_error_text_cannot_steer_the_terminal() -> None:
    lines = table_lines(("A",), [("\x1b[2Jgone\nnext",)])
    assert lines == ["A", " [2Jgone next"]


def test_help_needs_no_socket(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["node", "ls", "--help"]) == 0
    assert "--no-trunc" in capsys.readouterr().out
