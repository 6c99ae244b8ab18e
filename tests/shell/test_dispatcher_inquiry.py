"""Events, history and why, asked of a running dispatcher; secrets and configs over the same line."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import msgspec
import pytest

from services.kit.errors import InvalidArgument, NotFound
from services.kit.messages import control, inquiry, payloads
from services.kit.model.objects import Secret, Service, Task
from services.kit.model.specs import (
    Annotations,
    ConfigSpec,
    ContainerSpec,
    FileTarget,
    SecretReference,
    SecretSpec,
    TaskSpec,
    UpdateConfig,
)
from services.kit.model.states import TaskState, UpdateState
from services.kit.state.tables import Table, decode_object
from tests.support.convergence import a_service_spec
from tests.support.dispatching import House, house, wait_for_leader
from tests.support.running import eventually

_replace = msgspec.structs.replace


def run(directory: Path, story: Callable[[House], object]) -> None:
    async def told() -> None:
        opened: AbstractAsyncContextManager[House] = house(directory)
        async with asyncio.timeout(20), opened as swarm:
            await wait_for_leader(swarm)
            await story(swarm)  # type: ignore[misc]

    asyncio.run(told())


def test_history_names_who_did_what_and_what_was_there_before(tmp_path: Path) -> None:
    async def story(swarm: House) -> None:
        await swarm.start_agent("n1")
        made = (await swarm.create(a_service_spec(replicas=1))).service
        await eventually(lambda: len(swarm.running()) == 1)
        await swarm.update("web", lambda spec: _replace(spec, annotations=Annotations(name="web", labels={"a": "b"})))
        reply = await swarm.call(inquiry.HISTORY, inquiry.HistoryRequest(ref="web"))
        first, *_, last = [step for step in reply.steps if step.actor.startswith("user 0")]
        assert (first.cause, last.cause) == ("control.create_service", "control.update_service")
        assert first.at > 0
        (event,) = last.events
        old, new = decode_object(Table.SERVICE, event.old), decode_object(Table.SERVICE, event.object)
        assert isinstance(old, Service)
        assert isinstance(new, Service)
        assert (old.spec.annotations.labels, new.spec.annotations.labels) == ({}, {"a": "b"})
        assert (first.events[0].action, first.events[0].old) == ("create", b"")
        request = inquiry.HistoryRequest(ref=made.id, related=True)
        related = (await swarm.call(inquiry.HISTORY, request)).steps
        causes = [step.cause for step in related if step.actor == "dispatcher"]
        assert any("replicated" in cause and "schedule" in cause for cause in causes)
        assert any("statuses" in cause for cause in causes)
        assert [step.version for step in related] == sorted({step.version for step in related})

    run(tmp_path, story)


def test_the_history_of_what_is_gone_is_still_told(tmp_path: Path) -> None:
    async def story(swarm: House) -> None:
        made = (await swarm.create(a_service_spec(replicas=0))).service
        await swarm.call(control.REMOVE_SERVICE, control.RemoveServiceRequest(service_id=made.id))
        for ref in ("web", made.id):
            steps = (await swarm.call(inquiry.HISTORY, inquiry.HistoryRequest(ref=ref))).steps
            assert [event.action for step in steps for event in step.events][-1] == "remove"
        with pytest.raises(NotFound):
            await swarm.call(inquiry.HISTORY, inquiry.HistoryRequest(ref="never"))

    run(tmp_path, story)


def test_events_are_ordered_and_resumed_behind_a_version_with_their_actors(tmp_path: Path) -> None:
    async def story(swarm: House) -> None:
        version = swarm.store.state.version
        for name in ("a", "b", "c"):
            await swarm.create(a_service_spec(name, replicas=0))

        async def read(since: int, count: int) -> list[control.ObjectEvents]:
            request = control.WatchObjects(version=since, tables=("service",), with_old=True)
            found: list[control.ObjectEvents] = []
            async with swarm.connection.open(control.WATCH, request, meta=swarm.user) as items:
                await anext(items)
                async for item in items:
                    found.append(item)
                    if len(found) == count:
                        break
            return found

        all_of_them = await read(version, 3)
        assert [item.version for item in all_of_them] == sorted(item.version for item in all_of_them)
        assert {item.actor for item in all_of_them} == {"user 0 on manager"}
        assert await read(all_of_them[0].version, 2) == all_of_them[1:]

    run(tmp_path, story)


def test_why_says_what_a_service_waits_for(tmp_path: Path) -> None:
    async def story(swarm: House) -> None:
        await swarm.create(a_service_spec(replicas=2))
        await eventually(lambda: [t for t in swarm.store.state.tasks.values() if t.status.error])
        reply = await swarm.call(inquiry.WHY, inquiry.WhyRequest(ref="web"))
        assert [finding.waits_for for finding in reply.findings] == ["a node: there is none"]
        await swarm.start_agent("n1")
        await eventually(lambda: len(swarm.running()) == 2)
        assert (await swarm.call(inquiry.WHY, inquiry.WhyRequest(ref="web"))).findings == ()

    run(tmp_path, story)


def using(secret: Secret) -> TaskSpec:
    reference = SecretReference(
        secret_id=secret.id, secret_name=secret.spec.annotations.name, target=FileTarget(name="password")
    )
    return TaskSpec(driver="fake", container=ContainerSpec(secrets=(reference,)))


def test_a_secret_lives_from_its_creation_through_rotation_to_its_removal(tmp_path: Path) -> None:
    async def story(swarm: House) -> None:
        agent = await swarm.start_agent("n1")
        spec = SecretSpec(annotations=Annotations(name="password"), data=b"one")
        request = payloads.CreateSecretRequest(spec=spec, request_id="r")
        secret = (await swarm.call(payloads.CREATE_SECRET, request)).secret
        assert secret.spec.data == b""
        assert (await swarm.call(payloads.CREATE_SECRET, request)).secret == secret
        got = (await swarm.call(payloads.GET_SECRET, control.GetRequest(ref="password"))).secret
        assert (got.id, got.spec.data) == (secret.id, b"")
        update = UpdateConfig(monitor_s=0.05)
        await swarm.create(a_service_spec(task=using(secret), update=update))
        await eventually(lambda: len(swarm.running()) == 1)
        assert [s.spec.data for m in agent.assignments for s in m.secrets] == [b"one"]
        rotation = await swarm.call(
            payloads.ROTATE_SECRET, payloads.RotateSecretRequest(secret_id=secret.id, data=b"two", request_id="x")
        )
        assert rotation.services == ("web",)
        assert rotation.secret is not None
        assert (rotation.secret.number, rotation.secret.spec.data) == (2, b"")

        def is_done() -> bool:
            status = next(iter(swarm.store.state.services.values())).update_status
            return status is not None and status.state is UpdateState.COMPLETED

        await eventually(is_done)
        assert [s.spec.data for m in agent.assignments for s in m.secrets] == [b"one", b"two"]
        assert any(secret.id in message.removed_secrets for message in agent.assignments)
        listed = (await swarm.call(payloads.LIST_SECRETS, control.ListRequest())).secrets
        assert [(each.number, each.spec.data) for each in listed] == [(2, b""), (1, b"")]
        removal = payloads.RemoveSecretRequest(secret_id=rotation.secret.id)
        with pytest.raises(InvalidArgument, match="used by service web"):
            await swarm.call(payloads.REMOVE_SECRET, removal)
        service = next(iter(swarm.store.state.services))
        await swarm.call(control.REMOVE_SERVICE, control.RemoveServiceRequest(service_id=service))
        await swarm.call(payloads.REMOVE_SECRET, removal)
        assert not swarm.store.state.secrets

    run(tmp_path, story)


def test_no_event_shows_a_secrets_data(tmp_path: Path) -> None:
    async def story(swarm: House) -> None:
        spec = SecretSpec(annotations=Annotations(name="password"), data=b"top secret")
        made = (await swarm.call(payloads.CREATE_SECRET, payloads.CreateSecretRequest(spec=spec))).secret
        await swarm.call(payloads.ROTATE_SECRET, payloads.RotateSecretRequest(secret_id=made.id, data=b"top secret 2"))
        request = inquiry.HistoryRequest(ref=made.id)
        steps = (await swarm.call(inquiry.HISTORY, request)).steps
        assert steps
        assert b"top secret" not in msgspec.msgpack.encode(steps)

    run(tmp_path, story)


def test_a_config_shows_its_data_and_changes_its_labels_only(tmp_path: Path) -> None:
    async def story(swarm: House) -> None:
        spec = ConfigSpec(annotations=Annotations(name="motd"), data=b"hello")
        made = (await swarm.call(payloads.CREATE_CONFIG, payloads.CreateConfigRequest(spec=spec))).config
        assert made.spec.data == b"hello"
        labels = _replace(spec, annotations=Annotations(name="motd", labels={"a": "b"}))
        request = payloads.UpdateConfigRequest(config_id=made.id, version=made.meta.version, spec=labels)
        assert (await swarm.call(payloads.UPDATE_CONFIG, request)).config.spec.annotations.labels == {"a": "b"}
        rotated = await swarm.call(payloads.ROTATE_CONFIG, payloads.RotateConfigRequest(config_id=made.id, data=b"hi"))
        assert rotated.config is not None
        got = (await swarm.call(payloads.GET_CONFIG, control.GetRequest(ref="motd"))).config
        assert (got.number, got.spec.data, got.spec.annotations.labels) == (2, b"hi", {"a": "b"})
        await eventually(lambda: len(swarm.store.state.configs) == 1)
        listed = (await swarm.call(payloads.LIST_CONFIGS, control.ListRequest())).configs
        assert [each.id for each in listed] == [got.id]
        await swarm.call(payloads.REMOVE_CONFIG, payloads.RemoveConfigRequest(config_id=got.id))
        assert not swarm.store.state.configs

    run(tmp_path, story)


def test_an_update_is_paused_and_resumed_by_its_user(tmp_path: Path) -> None:
    async def story(swarm: House) -> None:
        await swarm.start_agent("n1")
        update = UpdateConfig(delay_s=60, monitor_s=0.05)
        made = (await swarm.create(a_service_spec(replicas=2, update=update))).service
        await eventually(lambda: len(swarm.running()) == 2)
        await swarm.update("web", lambda spec: _replace(spec, task=_replace(spec.task, force_update=1)))

        def rolled() -> list[Task]:
            return [t for t in swarm.running() if t.spec_version == 2 and t.status.state is TaskState.RUNNING]

        await eventually(lambda: len(rolled()) == 1)

        async def ask(**how: bool) -> Service:
            version = swarm.store.state.services[made.id].meta.version
            request = control.UpdateServiceRequest(service_id=made.id, version=version, **how)  # type: ignore[arg-type]
            return (await swarm.call(control.UPDATE_SERVICE, request)).service

        paused = await ask(pause=True)
        assert paused.update_status is not None
        assert paused.update_status.state is UpdateState.PAUSED
        resumed = await ask(resume=True)
        assert resumed.update_status is not None
        assert resumed.update_status.state is UpdateState.UPDATING

    run(tmp_path, story)
