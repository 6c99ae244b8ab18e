"""swarmctl's backups with a dispatcher's own handlers behind them: what one swarm wrote, a fresh one takes in."""

from __future__ import annotations

import argparse
import asyncio
import io
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
from msgspec.structs import replace

from services.cli.context import Context
from services.cli.output import Output
from services.cli.verbs.backup import COMMANDS, PASSPHRASE_VARIABLE
from services.client.backups import Backups
from services.client.payloads import Configs, Secrets
from services.client.services import Services
from services.kit.errors import FailedPrecondition
from services.kit.messages import control
from services.kit.messages.backup import BackupItem, StoredObject
from services.kit.model.ids import ClusterId, NetworkId, NodeId, TaskId, spec_version_id
from services.kit.model.objects import Network, Node, NodeDescription, SpecVersion, Task, TaskStatus
from services.kit.model.specs import (
    Annotations,
    ConfigSpec,
    ContainerSpec,
    FileTarget,
    NetworkSpec,
    NodeSpec,
    ReplicatedJob,
    SecretReference,
    SecretSpec,
    TaskSpec,
)
from services.kit.model.states import TaskState
from services.kit.runtime.clock import SystemClock
from services.kit.state.state import State
from services.kit.state.tables import encode_object
from services.kit.state.transaction import create
from tests.support.convergence import a_service_spec
from tests.support.dispatching import House, house, wait_for_leader

VERBS = {command.name: command.run for command in COMMANDS}


class Line:
    """The client's line over a house's connection."""

    def __init__(self, swarm: House) -> None:
        self._swarm = swarm
        self.clock = SystemClock()
        self.timeout_s = 10.0

    def request_id(self) -> str:
        return ""

    async def call(self, method, request, *, repeatable=None, request_id=""):  # type: ignore[no-untyped-def]
        return await self._swarm.call(method, request)

    @asynccontextmanager
    async def stream(self, method, request):  # type: ignore[no-untyped-def]
        async with self._swarm.connection.open(method, request, meta=self._swarm.user) as items:
            yield items


@asynccontextmanager
async def desk(directory: Path) -> AsyncIterator[tuple[House, Context, io.StringIO]]:
    out = io.StringIO()
    directory.mkdir()
    async with asyncio.timeout(20), house(directory) as swarm:
        await wait_for_leader(swarm)
        line = Line(swarm)
        client = SimpleNamespace(
            backups=Backups(line),  # type: ignore[arg-type]
            services=Services(line),  # type: ignore[arg-type]
            secrets=Secrets(line),  # type: ignore[arg-type]
            configs=Configs(line),  # type: ignore[arg-type]
        )
        yield swarm, Context(client=client, output=Output(out=out, err=out)), out  # type: ignore[arg-type]


def flags(file: Path, **values: object) -> argparse.Namespace:
    return argparse.Namespace(
        **{"file": str(file), "passphrase_file": None, "force": False, "dry_run": False, "json": False, **values}
    )


@pytest.fixture(autouse=True)
def passphrase(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PASSPHRASE_VARIABLE, "correct horse")


async def fill(swarm: House, context: Context) -> None:
    """Put a little of everything into a swarm."""
    secrets, configs, services = context.client.secrets, context.client.configs, context.client.services
    secret = await secrets.create(SecretSpec(annotations=Annotations(name="key"), data=b"hush"))
    await configs.create(ConfigSpec(annotations=Annotations(name="motd"), data=b"hello"))
    reference = SecretReference(secret_id=secret.id, secret_name="key", target=FileTarget(name="key"))
    task = TaskSpec(driver="fake", container=ContainerSpec(image="v1", secrets=(reference,)))
    await services.create(a_service_spec("web", replicas=2, task=task))
    await secrets.rotate("key", b"hush hush")
    spec = NodeSpec(annotations=Annotations(labels={"disk": "ssd"}))
    swarm.write(create(Node(id=NodeId("old"), spec=spec, description=NodeDescription(hostname="alpha"))))
    job = await services.create(a_service_spec("once", mode=ReplicatedJob(max_concurrent=1, total_completions=1)))
    swarm.write(
        create(
            Task(
                id=TaskId("done"),
                service_id=job.id,
                spec_version=1,
                slot=1,
                node_id=NodeId("old"),
                desired_state=TaskState.COMPLETE,
                status=TaskStatus(state=TaskState.COMPLETE),
            )
        )
    )


def kept(state: State) -> dict[str, object]:
    """Return what must be the same in both swarms."""
    return {
        **{service.id: (service.spec, service.previous_spec) for service in state.services.values()},
        **{secret.id: (secret.spec, secret.number, secret.superseded_by) for secret in state.secrets.values()},
        **{config.id: (config.spec, config.number, config.superseded_by) for config in state.configs.values()},
    }


async def write_backup(tmp_path: Path) -> tuple[Path, dict[str, object], str]:
    file = tmp_path / "swarm.backup"
    async with desk(tmp_path / "first") as (swarm, context, out):
        await fill(swarm, context)
        assert await VERBS["create"](context, flags(file)) == 0
        await VERBS["verify"](context, flags(file))
        return file, kept(swarm.store.state), out.getvalue()


def test_a_fresh_swarm_becomes_what_the_old_one_was(tmp_path: Path) -> None:
    async def story() -> None:
        file, before, said = await write_backup(tmp_path)
        assert "2 services, 2 secrets, 1 configs" in said
        assert "whole and readable" in said
        assert b"hush" not in file.read_bytes()
        assert file.stat().st_mode & 0o777 == 0o600
        async with desk(tmp_path / "second") as (swarm, context, out):
            swarm.write(create(Node(id=NodeId("new"), description=NodeDescription(hostname="alpha"))))
            await VERBS["restore"](context, flags(file, dry_run=True))
            assert kept(swarm.store.state) == {}
            await VERBS["restore"](context, flags(file))
            state = swarm.store.state
            assert kept(state) == before
            assert state.nodes[NodeId("new")].spec.annotations.labels == {"disk": "ssd"}
            job = state.service_named("once")
            assert job is not None
            assert [task.id for task in state.tasks_of_service(job.id).values()] == ["done"], "the job ran again"
            assert "restored" in out.getvalue()

    asyncio.run(story())


def test_restoring_again_after_an_interruption_changes_nothing_that_is_there(tmp_path: Path) -> None:
    async def story() -> None:
        file, before, _ = await write_backup(tmp_path)
        async with desk(tmp_path / "second") as (swarm, context, out):
            await VERBS["restore"](context, flags(file))
            await VERBS["restore"](context, flags(file))
            assert kept(swarm.store.state) == before
            assert out.getvalue().count("restored 0 of") == 1

    asyncio.run(story())


def test_a_swarm_that_has_something_of_its_own_is_left_alone(tmp_path: Path) -> None:
    async def story() -> None:
        file, _, _ = await write_backup(tmp_path)
        async with desk(tmp_path / "second") as (swarm, context, _out):
            await swarm.create(a_service_spec("mine"), request_id="not one of the first swarm")
            before = swarm.store.state.version
            with pytest.raises(FailedPrecondition, match=r"fresh swarm.*mine"):
                await VERBS["restore"](context, flags(file))
            assert swarm.store.state.service_named("web") is None
            assert swarm.store.state.version >= before

    asyncio.run(story())


def test_a_file_that_is_there_is_not_replaced_unless_asked(tmp_path: Path) -> None:
    async def story() -> None:
        file, _, _ = await write_backup(tmp_path)
        before = file.read_bytes()
        async with desk(tmp_path / "second") as (_swarm, context, _out):
            with pytest.raises(FailedPrecondition, match="there already"):
                await VERBS["create"](context, flags(file))
            assert file.read_bytes() == before
            await VERBS["create"](context, flags(file, force=True))
            assert file.read_bytes() != before

    asyncio.run(story())


def test_the_network_that_every_swarm_has_is_left_out(tmp_path: Path) -> None:
    spec = NetworkSpec(annotations=Annotations(name="ingress"), ingress=True)
    asked = Network(id=NetworkId("of-the-old-swarm"), spec=spec)

    async def story() -> None:
        async with desk(tmp_path / "first") as (swarm, context, _):
            if not swarm.store.state.networks:
                swarm.write(create(replace(asked, id=NetworkId("its-own"))))
            parts = await context.client.backups.read()
            assert not [each for part in parts for each in part.objects if each.table == "network"]
            stored = StoredObject(table="network", object=encode_object(asked))
            part = BackupItem(version=1, cluster_id=ClusterId("c"), at=0.0, total=1, objects=(stored,))
            assert await context.client.backups.restore([part]) == 0

    asyncio.run(story())


def test_a_large_swarm_travels_in_parts_and_comes_back_whole(tmp_path: Path) -> None:
    async def story() -> None:
        file = tmp_path / "swarm.backup"
        async with desk(tmp_path / "first") as (swarm, context, _):
            for number in range(12):
                data = bytes([number]) * 400_000
                await context.client.configs.create(ConfigSpec(annotations=Annotations(name=f"c{number}"), data=data))
            await VERBS["create"](context, flags(file))
            before = kept(swarm.store.state)
        async with desk(tmp_path / "second") as (swarm, context, _):
            await VERBS["restore"](context, flags(file))
            assert kept(swarm.store.state) == before

    asyncio.run(story())


def test_the_leaders_keys_and_tokens_are_in_no_backup(tmp_path: Path) -> None:
    async def story() -> None:
        async with desk(tmp_path / "first") as (swarm, context, _):
            cluster = (await swarm.call(control.GET_CLUSTER, control.GetRequest(ref="default"))).cluster
            parts = await context.client.backups.read()
            whole = b"".join(each.object for part in parts for each in part.objects)
            stored = swarm.store.state.cluster
            assert stored is not None
            for secret in (stored.root_ca.ca_key, stored.root_ca.join_tokens.manager.encode(), stored.unlock_key):
                assert not secret or secret not in whole
            assert cluster.id.encode() in whole

    asyncio.run(story())


def test_every_service_has_its_template_again(tmp_path: Path) -> None:
    async def story() -> None:
        file, _, _ = await write_backup(tmp_path)
        async with desk(tmp_path / "second") as (swarm, context, _):
            await VERBS["restore"](context, flags(file))
            for service in swarm.store.state.services.values():
                template = swarm.store.state.spec(service.id, service.spec_version)
                assert isinstance(template, SpecVersion)
                assert template.id == spec_version_id(service.id, service.spec_version)
                assert template.task == service.spec.task

    asyncio.run(story())
