"""Secrets and configs: what may change, what may go, and rotation."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec
import pytest

from services.dispatcher.core.control.answers import Answer
from services.dispatcher.core.control.payloads import (
    CONFIGS,
    SECRETS,
    create_payload,
    list_payloads,
    remove_payload,
    rotate_payload,
    shown_secret,
    update_payload,
    versions_of,
)
from services.dispatcher.core.control.services import create_service
from services.kit.errors import Conflict, InvalidArgument, NotFound
from services.kit.messages.control import CreateServiceRequest, Filters
from services.kit.model.ids import SecretId, ServiceId
from services.kit.model.objects import Config, Secret
from services.kit.model.specs import (
    Annotations,
    ConfigReference,
    ConfigSpec,
    ContainerSpec,
    DriverConfig,
    EndpointSpec,
    FileTarget,
    IngressConfig,
    PortConfig,
    ReplicatedJob,
    SecretReference,
    SecretSpec,
    TaskSpec,
)
from services.kit.model.states import TaskState, UpdateState
from services.kit.state.tables import Table
from tests.support.convergence import Swarm, a_service_spec

_replace = msgspec.structs.replace
AT = 1.0


def write(swarm: Swarm, answer: Answer) -> Secret | Config:
    result = swarm.write(*answer.ops)
    assert result.conflict is None, result
    assert answer.thing is not None
    table = Table.SECRET if isinstance(answer.thing, Secret) else Table.CONFIG
    stored = swarm.state.get(table, answer.thing.id)
    assert isinstance(stored, Secret | Config)
    return stored


def secret_spec(name: str = "password", data: bytes = b"one", **labels: str) -> SecretSpec:
    return SecretSpec(annotations=Annotations(name=name, labels=labels), data=data)


def add_secret(swarm: Swarm, name: str = "password", **labels: str) -> Secret:
    spec = secret_spec(name, b"one", **labels)
    made = write(swarm, create_payload(swarm.state, SECRETS, spec, "", f"id-{name}"))
    assert isinstance(made, Secret)
    return made


def using(secret: Secret) -> TaskSpec:
    reference = SecretReference(
        secret_id=secret.id, secret_name=secret.spec.annotations.name, target=FileTarget(name="file")
    )
    return TaskSpec(driver="fake", container=ContainerSpec(image="v1", secrets=(reference,)))


def rotate(swarm: Swarm, data: bytes = b"two", fresh: str = "new", request: str = "") -> tuple[Secret, tuple[str, ...]]:
    answer, users = rotate_payload(swarm.state, SECRETS, "password", data, request, fresh, swarm.now)
    made = write(swarm, answer)
    assert isinstance(made, Secret)
    return made, users


def secrets_of(swarm: Swarm) -> set[str]:
    """The data that running tasks see."""
    specs = [swarm.state.spec(task.service_id, task.spec_version) for task in swarm.running()]
    ids = {reference.secret_id for spec in specs if spec is not None for reference in spec.task.container.secrets}
    return {swarm.state.secrets[each].spec.data.decode() for each in ids}


def test_the_certificate_of_a_port_must_be_there_and_stays_while_it_is_used() -> None:
    port = PortConfig(target_port=80, published_port=443, ingress=IngressConfig(tls_secret="site"))
    spec = a_service_spec("web", endpoint=EndpointSpec(ports=(port,)))
    swarm = Swarm(0)
    with pytest.raises(InvalidArgument, match="there is no such secret"):
        create_service(swarm.state, CreateServiceRequest(spec=spec), ServiceId("web"), 1.0)
    write(swarm, create_payload(swarm.state, SECRETS, secret_spec("site", b"password"), "", "wrong"))
    with pytest.raises(InvalidArgument, match="no certificate with its key"):
        create_service(swarm.state, CreateServiceRequest(spec=spec), ServiceId("web"), 1.0)
    swarm.write(*remove_payload(swarm.state, SECRETS, "site").ops)
    pem = b"-----BEGIN CERTIFICATE-----\n-----BEGIN PRIVATE KEY-----\n"
    write(swarm, create_payload(swarm.state, SECRETS, secret_spec("site", pem), "", "right"))
    swarm.write(*create_service(swarm.state, CreateServiceRequest(spec=spec), ServiceId("web"), 1.0).ops)
    with pytest.raises(InvalidArgument, match="used by service web"):
        remove_payload(swarm.state, SECRETS, "site")
    answer, users = rotate_payload(swarm.state, SECRETS, "site", pem + b"2", "", "newer", 2.0)
    assert users == (), "gateways take it without a new task"
    swarm.write(*answer.ops)


@pytest.mark.parametrize(
    "spec",
    [
        secret_spec(""),
        secret_spec("-x"),
        secret_spec("x-"),
        secret_spec("a" * 65),
        secret_spec("a b"),
        secret_spec(data=b""),
        secret_spec(data=bytes(512_000)),
        _replace(secret_spec(), driver=DriverConfig(name="vault")),
    ],
)
def test_a_bad_secret_is_refused(spec: SecretSpec) -> None:
    with pytest.raises(InvalidArgument):
        create_payload(Swarm(0).state, SECRETS, spec, "", "x")


def test_the_largest_secret_and_config_and_every_allowed_character_are_taken() -> None:
    view = Swarm(0).state
    assert create_payload(view, SECRETS, secret_spec("a.b_c-D9", bytes(511_999)), "", "x").ops
    config = ConfigSpec(annotations=Annotations(name="a" * 64), data=bytes(1_023_999))
    assert create_payload(view, CONFIGS, config, "", "x").ops
    with pytest.raises(InvalidArgument):
        create_payload(view, CONFIGS, _replace(config, data=bytes(1_024_000)), "", "x")


def test_a_drivers_secret_needs_no_data() -> None:
    spec = _replace(secret_spec(data=b""), driver=DriverConfig(name="vault"))
    assert create_payload(Swarm(0).state, SECRETS, spec, "", "x").ops


def test_the_same_request_makes_one() -> None:
    swarm = Swarm(0)
    first = write(swarm, create_payload(swarm.state, SECRETS, secret_spec(), "request", "x"))
    again = create_payload(swarm.state, SECRETS, secret_spec(), "request", "y")
    assert again.ops == ()
    assert again.thing == first


def test_a_name_is_taken_once() -> None:
    swarm = Swarm(0)
    add_secret(swarm)
    answer = create_payload(swarm.state, SECRETS, secret_spec("PASSWORD"), "", "other")
    conflict = swarm.write(*answer.ops).conflict
    assert conflict is not None
    assert conflict.reason == "name"


def test_a_shown_secret_has_no_data() -> None:
    assert shown_secret(add_secret(Swarm(0))).spec.data == b""


def test_only_labels_change_and_only_from_what_was_read() -> None:
    swarm = Swarm(0)
    secret = add_secret(swarm)
    labelled = secret_spec(data=b"", colour="red")
    made = write(swarm, update_payload(swarm.state, SECRETS, secret.id, secret.meta.version, labelled))
    assert (made.spec.annotations.labels, made.spec.data) == ({"colour": "red"}, b"one")
    for spec in (secret_spec(data=b"other"), secret_spec("other", data=b"")):
        with pytest.raises(InvalidArgument, match="rotate"):
            update_payload(swarm.state, SECRETS, secret.id, made.meta.version, spec)
    with pytest.raises(Conflict):
        update_payload(swarm.state, SECRETS, secret.id, secret.meta.version, labelled)


def test_what_a_service_uses_stays_until_it_does_not() -> None:
    swarm = Swarm(1)
    secret = add_secret(swarm)
    swarm.create_service(a_service_spec(task=using(secret)))
    with pytest.raises(InvalidArgument, match="used by service web"):
        remove_payload(swarm.state, SECRETS, "password")
    swarm.remove_service("web")
    swarm.write(*remove_payload(swarm.state, SECRETS, "password").ops)
    assert not swarm.state.secrets
    with pytest.raises(NotFound):
        remove_payload(swarm.state, SECRETS, "password")


def listed(swarm: Swarm, filters: Filters) -> list[str]:
    return [secret.spec.annotations.name for secret in list_payloads(swarm.state, SECRETS, filters)]


@pytest.mark.parametrize(
    ("filters", "names"),
    [
        (Filters(), ["alpha", "beta", "gamma"]),
        (Filters(names=("beta",)), ["beta"]),
        (Filters(name_prefixes=("al",), names=("beta",)), ["alpha", "beta"]),
        (Filters(id_prefixes=("id-g",)), ["gamma"]),
        (Filters(labels={"tier": ""}), ["alpha", "gamma"]),
        (Filters(labels={"tier": "front"}), ["gamma"]),
        (Filters(labels={"tier": "front"}, names=("alpha",)), []),
    ],
)
def test_lists_are_filtered(filters: Filters, names: list[str]) -> None:
    swarm = Swarm(0)
    add_secret(swarm, "gamma", tier="front")
    add_secret(swarm, "alpha", tier="back")
    add_secret(swarm, "beta")
    assert listed(swarm, filters) == names


# -- rotation


def test_rotating_rolls_the_users_over_and_forgets_the_old_version_in_time() -> None:
    swarm = Swarm(2, history=1)
    secret = add_secret(swarm)
    swarm.create_service(a_service_spec(replicas=3, task=using(secret)))
    swarm.create_service(a_service_spec("other"))
    swarm.settle()
    made, users = rotate(swarm)
    assert (made.number, users) == (2, ("web",))
    swarm.pass_time(100)
    assert secrets_of(swarm) == {"two"}
    assert len(swarm.running()) == 3
    status = swarm.service().update_status
    assert status is not None
    assert status.state is UpdateState.COMPLETED
    assert [each.number for each in versions_of(swarm.state, SECRETS, made)] == [2, 1], "the way back is kept"
    swarm.set_image("web", "v2")
    swarm.pass_time(100)
    assert [each.number for each in versions_of(swarm.state, SECRETS, made)] == [2]


def test_a_user_that_fails_with_the_new_version_goes_back_whatever_its_policy_says() -> None:
    swarm = Swarm(2)
    secret = add_secret(swarm)
    swarm.create_service(a_service_spec(replicas=3, task=using(secret)))
    swarm.settle()
    swarm.behaviour = lambda task: TaskState.FAILED if task.spec_version == 2 else None
    rotate(swarm)
    swarm.pass_time(200)
    status = swarm.service().update_status
    assert status is not None
    assert status.state is UpdateState.ROLLBACK_COMPLETED
    assert secrets_of(swarm) == {"one"}
    assert len(swarm.running()) == 3


def test_a_user_that_went_back_is_taken_along_by_the_next_rotation() -> None:
    swarm = Swarm(2)
    swarm.create_service(a_service_spec(task=using(add_secret(swarm))))
    swarm.settle()
    swarm.behaviour = lambda task: TaskState.FAILED if task.spec_version == 2 else None
    rotate(swarm)
    swarm.pass_time(100)
    rotate(swarm, b"three", "third")
    swarm.pass_time(100)
    assert secrets_of(swarm) == {"three"}


def test_the_same_rotation_asked_twice_happens_once() -> None:
    swarm = Swarm(1)
    swarm.create_service(a_service_spec(task=using(add_secret(swarm))))
    made, users = rotate(swarm, request="r")
    again, same = rotate_payload(swarm.state, SECRETS, "password", b"two", "r", "x", swarm.now)
    assert (again.ops, again.thing, same) == ((), made, users)


def test_the_name_means_the_newest_version_and_old_ones_go_with_it() -> None:
    swarm = Swarm(1)
    secret = add_secret(swarm)
    swarm.create_service(a_service_spec(task=using(secret)))
    made, _ = rotate(swarm)
    assert swarm.state.holder_of_name(Table.SECRET, "password") == made.id
    swarm.remove_service("web")
    swarm.write(*remove_payload(swarm.state, SECRETS, "password").ops)
    assert not swarm.state.secrets


def test_a_superseded_version_that_nobody_uses_goes_at_once_also_under_a_new_leader() -> None:
    swarm = Swarm(1)
    add_secret(swarm)
    del swarm.planning
    rotate(swarm)
    swarm.become_leader()
    swarm.settle()
    assert list(swarm.state.secrets) == [SecretId("new")]


def test_a_job_takes_the_new_version_at_its_next_run() -> None:
    swarm = Swarm(1)
    task = using(add_secret(swarm))
    swarm.create_service(a_service_spec(mode=ReplicatedJob(), task=task))
    swarm.settle()
    rotate(swarm)
    swarm.pass_time(10)
    assert len(swarm.tasks()) == 1
    swarm.set_image("web", "v2")
    swarm.pass_time(10)
    live: Iterable[str] = {
        reference.secret_id
        for task_ in swarm.tasks(where=lambda t: t.status.state is TaskState.RUNNING)
        if (spec := swarm.state.spec(task_.service_id, task_.spec_version)) is not None
        for reference in spec.task.container.secrets
    }
    assert live == {"new"}


def test_configs_rotate_alike() -> None:
    swarm = Swarm(1)
    spec = ConfigSpec(annotations=Annotations(name="password"), data=b"one")
    config = write(swarm, create_payload(swarm.state, CONFIGS, spec, "", "c1"))
    assert isinstance(config, Config)
    reference = ConfigReference(config_id=config.id, config_name="password", target=FileTarget(name="file"))
    task = TaskSpec(driver="fake", container=ContainerSpec(image="v1", configs=(reference,)))
    swarm.create_service(a_service_spec(task=task))
    swarm.settle()
    answer, users = rotate_payload(swarm.state, CONFIGS, "password", b"two", "", "c2", swarm.now)
    write(swarm, answer)
    swarm.pass_time(100)
    assert users == ("web",)
    assert [r.config_id for r in swarm.service().spec.task.container.configs] == ["c2"]
    assert len(swarm.running()) == 1
