"""swarmctl's secrets, configs, why and history over the control socket, with a dispatcher's own handlers behind it."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest

from services.cli.context import Context
from services.cli.output import Output
from services.cli.payload_verbs import PayloadVerbs
from services.client.payloads import Configs, Secrets
from services.kit.errors import AlreadyExists, InvalidArgument, NotFound
from services.kit.messages import control
from services.kit.model.specs import ConfigSpec
from tests.support.convergence import a_service_spec
from tests.support.dispatching import House, house, wait_for_leader


class Line:
    """The client's line over a house's connection."""

    def __init__(self, swarm: House) -> None:
        self._swarm = swarm
        self._requests = 0

    def request_id(self) -> str:
        self._requests += 1
        return f"request-{self._requests}"

    async def call(self, method, request, *, repeatable=None, request_id=""):  # type: ignore[no-untyped-def]
        return await self._swarm.call(method, request)

    async def remove(self, method, request):  # type: ignore[no-untyped-def]
        await self._swarm.call(method, request)


@asynccontextmanager
async def desk(directory: Path) -> AsyncIterator[tuple[House, Context, io.StringIO]]:
    out = io.StringIO()
    async with asyncio.timeout(20), house(directory) as swarm:
        await wait_for_leader(swarm)
        line = Line(swarm)
        client = SimpleNamespace(secrets=Secrets(line), configs=Configs(line))  # type: ignore[arg-type]
        yield swarm, Context(client=client, output=Output(out=out, err=out)), out  # type: ignore[arg-type]


def flags(**values: object) -> SimpleNamespace:
    plain: dict[str, object] = {
        "json": False,
        "quiet": False,
        "format": None,
        "no_trunc": False,
        "label": [],
        "label_add": [],
        "label_rm": [],
    }
    return SimpleNamespace(**{**plain, **values})


@pytest.mark.parametrize("noun", ["secret", "config"])
def test_the_life_of_a_payload_by_its_verbs(noun: str, tmp_path: Path) -> None:
    verbs = {command.name: command.run for command in PayloadVerbs(noun).commands()}
    first, second = tmp_path / "first", tmp_path / "second"
    first.write_bytes(b"one")
    second.write_bytes(b"two")

    async def story() -> str:
        async with desk(tmp_path) as (swarm, context, out):
            await verbs["create"](context, flags(name="token", file=str(first), label=["tier=front"]))  # type: ignore[arg-type]
            with pytest.raises(AlreadyExists):
                await verbs["create"](context, flags(name="token", file=str(second)))  # type: ignore[arg-type]
            await verbs["update"](context, flags(ref="token", label_add=["a=b"], label_rm=["tier"]))  # type: ignore[arg-type]
            await verbs["rotate"](context, flags(ref="token", file=str(second)))  # type: ignore[arg-type]
            await verbs["ls"](context, flags())  # type: ignore[arg-type]
            await verbs["inspect"](context, flags(ref="token"))  # type: ignore[arg-type]
            await verbs["rm"](context, flags(refs=["token"]))  # type: ignore[arg-type]
            with pytest.raises(NotFound):
                await verbs["inspect"](context, flags(ref="token"))  # type: ignore[arg-type]
            assert not swarm.store.state.secrets
            assert not swarm.store.state.configs
        return out.getvalue()

    shown = asyncio.run(story())
    assert "version 2; services that roll over: none" in shown
    assert "a=b" in shown
    assert "tier=front" not in shown
    assert ("two" in shown) == (noun == "config"), "a secret's data is never shown"


def test_the_client_changes_labels_only(tmp_path: Path) -> None:
    async def story() -> None:
        async with desk(tmp_path) as (_, context, _):
            from services.kit.model.specs import Annotations

            spec = ConfigSpec(annotations=Annotations(name="motd"), data=b"x")
            await context.client.configs.create(spec)
            with pytest.raises(InvalidArgument, match="rotate"):
                await context.client.configs.update(
                    "motd", lambda old: ConfigSpec(annotations=old.annotations, data=b"y")
                )

    asyncio.run(story())


def test_a_service_with_a_missing_secret_is_refused(tmp_path: Path) -> None:
    from services.kit.model.ids import SecretId
    from services.kit.model.specs import ContainerSpec, FileTarget, SecretReference, TaskSpec

    async def story() -> None:
        async with desk(tmp_path) as (swarm, _, _):
            reference = SecretReference(secret_id=SecretId("x"), secret_name="gone", target=FileTarget(name="f"))
            task = TaskSpec(driver="fake", container=ContainerSpec(secrets=(reference,)))
            with pytest.raises(InvalidArgument, match="no such secret"):
                await swarm.call(control.CREATE_SERVICE, control.CreateServiceRequest(spec=a_service_spec(task=task)))

    asyncio.run(story())
