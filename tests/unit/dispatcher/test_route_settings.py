"""What the route table says of a port besides its tasks."""

from __future__ import annotations

import msgspec

from services.dispatcher.core.routes import RouteBook, for_node
from services.dispatcher.core.specs import needs_new_version, stored_spec
from services.kit.messages.routes import Route
from services.kit.model.ids import ClusterId, NodeId, SecretId, ServiceId, TaskId
from services.kit.model.objects import Cluster, Endpoint, Node, PortStatus, Secret, Service, Task, TaskStatus
from services.kit.model.specs import (
    Annotations,
    ClusterIngressConfig,
    ClusterSpec,
    EndpointSpec,
    IngressConfig,
    NodeSpec,
    PortConfig,
    SecretSpec,
    ServiceSpec,
)
from services.kit.model.states import TaskState
from services.kit.state.state import State
from services.kit.state.transaction import Op, Transaction, create, update
from tests.support.convergence import a_node, a_service_spec

_replace = msgspec.structs.replace


class Book:
    """A store with a service on two nodes, and its route book."""

    def __init__(self, ingress: IngressConfig) -> None:
        self._store = State()
        self.state = State()
        self._writes = 0
        ports = (PortConfig(target_port=80, published_port=8080, ingress=ingress),)
        spec = a_service_spec("web", endpoint=EndpointSpec(ports=ports))
        service = Service(
            id=ServiceId("s"), spec=spec, spec_version=1, endpoint=Endpoint(spec=spec.endpoint, ports=ports)
        )
        template = stored_spec(self.state, service)
        assert template is not None
        nodes = [labelled(a_node("n1"), power="3", edge="yes"), labelled(a_node("n2"), power="much")]
        self.write(
            *map(create, nodes), create(service), create(template), *(create(running(f"t{n}", f"n{n}")) for n in (1, 2))
        )
        self.book = RouteBook(self.state)

    def write(self, *ops: Op) -> None:
        self._writes += 1
        transaction = Transaction(client="test", sequence=self._writes, at=1.0, ops=ops)
        result, changes = self._store.apply(transaction)
        assert result.conflict is None, result
        for event in self.state.absorb(result.version, changes, 1.0):
            if self._writes > 1:
                self.book.notice(self.state, event)

    def label(self, name: str, **labels: str) -> None:
        self.write(update(labelled(self.state.nodes[NodeId(name)], **labels)))

    def route(self) -> Route:
        (route,) = self.book.full().routes
        return route


def labelled(node: Node, **labels: str) -> Node:
    return _replace(node, spec=NodeSpec(annotations=Annotations(labels=labels)))


def running(name: str, node: str) -> Task:
    status = TaskStatus(state=TaskState.RUNNING, ports=(PortStatus(target_port=80, port=20_001),))
    return Task(
        id=TaskId(name),
        service_id=ServiceId("s"),
        spec_version=1,
        slot=1,
        node_id=NodeId(node),
        desired_state=TaskState.RUNNING,
        status=status,
    )


def weights(route: Route) -> dict[str, float]:
    return {backend.task_id: backend.weight for backend in route.backends}


def test_tasks_have_the_weight_that_their_nodes_label_says() -> None:
    assert weights(Book(IngressConfig(weight_label="power")).route()) == {"t1": 3.0, "t2": 1.0}


def test_without_a_label_all_weigh_the_same() -> None:
    assert weights(Book(IngressConfig()).route()) == {"t1": 1.0, "t2": 1.0}


def test_a_changed_label_changes_the_weight() -> None:
    book = Book(IngressConfig(weight_label="power"))
    book.label("n2", power="2.5")
    assert book.book.refresh(book.state) is not None
    assert weights(book.route()) == {"t1": 3.0, "t2": 2.5}


def test_a_port_names_the_nodes_that_meet_its_constraints() -> None:
    book = Book(IngressConfig(nodes=("node.labels.edge==yes",)))
    assert book.route().nodes == (NodeId("n1"),)
    book.label("n2", edge="yes")
    assert book.book.refresh(book.state) is not None
    assert book.route().nodes == (NodeId("n1"), NodeId("n2"))


def test_a_port_without_constraints_is_answered_everywhere() -> None:
    assert Book(IngressConfig()).route().nodes is None


def test_the_longest_drain_time_of_a_services_ports_counts() -> None:
    book = Book(IngressConfig(drain_s=7.0)).book
    assert book.drain_s(ServiceId("s")) == 7.0
    assert book.drain_s(ServiceId("other")) == 0.0


def test_only_running_tasks_behind_a_port_are_carried() -> None:
    book = Book(IngressConfig())
    task = book.state.tasks[TaskId("t1")]
    assert book.book.carries(task)
    assert not book.book.carries(_replace(task, status=_replace(task.status, state=TaskState.STARTING)))
    assert not book.book.carries(_replace(task, service_id=ServiceId("other")))


def test_tasks_of_other_nodes_are_private_until_the_cluster_says_plain() -> None:
    book = Book(IngressConfig())
    assert {backend.is_private for backend in book.route().backends} == {True}
    assert {backend.via for backend in book.route().backends} == {""}, "nobody has said yet where its gateway is"
    book.write(create(Cluster(id=ClusterId("c"), spec=ClusterSpec(ingress=ClusterIngressConfig(encrypted=False)))))
    assert book.book.refresh(book.state) is not None
    assert {backend.is_private for backend in book.route().backends} == {False}


def test_a_gateway_that_comes_is_in_the_routes_of_its_nodes_tasks() -> None:
    book = Book(IngressConfig())
    book.book.mesh_opened(book.state, NodeId("n1"), 4711)
    assert book.book.refresh(book.state) is not None
    assert {backend.task_id: backend.via for backend in book.route().backends} == {"t1": "127.0.0.1:4711", "t2": ""}
    book.book.mesh_opened(book.state, NodeId("n1"), 4711)
    assert book.book.refresh(book.state) is None, "nothing is new"


def a_secret(number: int, data: bytes, name: str = "site") -> Secret:
    spec = SecretSpec(annotations=Annotations(name=name), data=data)
    return Secret(id=SecretId(f"{name}{number}"), spec=spec, number=number)


def test_the_newest_version_of_a_certificate_reaches_the_gateways() -> None:
    book = Book(IngressConfig(tls_secret="Site"))
    assert book.route().certificate == b""
    book.write(create(a_secret(1, b"one")))
    assert book.book.refresh(book.state) is not None
    assert book.route().certificate == b"one"
    newer = a_secret(2, b"two")
    book.write(update(_replace(book.state.secrets[SecretId("site1")], superseded_by=newer.id)), create(newer))
    assert book.book.refresh(book.state) is not None
    assert book.route().certificate == b"two"
    book.write(create(a_secret(1, b"x", name="other")))
    assert book.book.refresh(book.state) is None, "it is nobody's certificate"


def test_a_certificate_is_told_only_to_nodes_that_answer_on_the_port() -> None:
    book = Book(IngressConfig(tls_secret="site", nodes=("node.labels.edge==yes",)))
    book.write(create(a_secret(1, b"one")))
    book.book.refresh(book.state)
    table = book.book.full()
    assert [route.certificate for route in for_node(table, NodeId("n1")).routes] == [b"one"]
    assert [route.certificate for route in for_node(table, NodeId("n2")).routes] == [b""]


def test_labels_of_a_service_say_how_gateways_treat_its_port_and_restart_no_task() -> None:
    book = Book(IngressConfig())
    service = book.state.services[ServiceId("s")]
    labels = {"swarmbus.ingress.80.host": "shop.example", "swarmbus.ingress.80.drain": "7s"}
    spec = _replace(service.spec, annotations=_replace(service.spec.annotations, labels=labels))
    assert not needs_new_version(service.spec, spec)
    book.write(update(_replace(service, spec=spec)))
    change = book.book.refresh(book.state)
    assert change is not None
    assert change.removed == ("8080/tcp",)
    assert [route.key for route in change.routes] == ["8080/tcp/s"]
    assert book.route().ingress.drain_s == 7
    assert book.book.drain_s(ServiceId("s")) == 7
    assert book.route().ingress.http is not None


def test_other_ingress_settings_restart_no_task() -> None:
    def spec(target_port: int, ingress: IngressConfig) -> ServiceSpec:
        ports = (PortConfig(target_port=target_port, published_port=8080, ingress=ingress),)
        return a_service_spec("web", endpoint=EndpointSpec(ports=ports))

    before = spec(80, IngressConfig())
    assert not needs_new_version(before, spec(80, IngressConfig(drain_s=5.0)))
    assert needs_new_version(before, spec(81, IngressConfig()))


def test_other_ingress_settings_reach_the_gateways() -> None:
    book = Book(IngressConfig())
    service = book.state.services[ServiceId("s")]
    assert service.endpoint is not None
    ports = tuple(_replace(port, ingress=IngressConfig(drain_s=5.0)) for port in service.endpoint.ports)
    book.write(update(_replace(service, endpoint=_replace(service.endpoint, ports=ports))))
    assert book.book.refresh(book.state) is not None
    assert book.route().ingress.drain_s == 5.0
