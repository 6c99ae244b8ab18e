"""``/secrets`` and ``/configs``."""

from __future__ import annotations

import base64
import binascii

from aiohttp import web
from msgspec.structs import replace

from services.kit.errors import AlreadyExists, Conflict, FailedPrecondition, InvalidArgument, NotFound
from services.kit.model.objects import Config, Secret
from services.kit.model.specs import Annotations, ConfigSpec, DriverConfig, SecretSpec
from services.web.core import failures, objects_out
from services.web.core.filters import Wanted, begins, labelled, read_filters
from services.web.core.json import Body, reading
from services.web.shell.desk import Desk, answered, body_of, done, version_of

FILTERS = ("id", "label", "name", "names")


class Secrets:
    """``/secrets``."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    async def list(self, request: web.Request) -> web.StreamResponse:
        """List secrets; superseded versions are not told of, Docker has none."""
        wanted = read_filters(request.query.get("filters", ""), FILTERS)
        found = await self._desk.client.secrets.list()
        return answered([objects_out.secret(each) for each in found if _chosen(wanted, each)])

    async def create(self, request: web.Request) -> web.StreamResponse:
        """Create a secret."""
        with reading(await body_of(request)) as body:
            driver = body.child("Driver")
            spec = SecretSpec(
                annotations=Annotations(name=body.text("Name"), labels=body.mapping("Labels")),
                data=_data(body),
                templating=body.child("Templating").text("Name"),
                driver=DriverConfig(name=driver.text("Name"), options=driver.mapping("Options")),
            )
        try:
            made = await self._desk.client.secrets.create(spec)
        except AlreadyExists:
            raise failures.name_taken("secret", spec.annotations.name) from None
        return answered({"ID": made.id}, status=201)

    async def inspect(self, request: web.Request) -> web.StreamResponse:
        """Show a secret."""
        return answered(objects_out.secret(await self._find(request.match_info["ref"])))

    async def update(self, request: web.Request) -> web.StreamResponse:
        """Change a secret's labels; nothing else can change."""
        secret = await self._find(request.match_info["ref"])
        annotations = _relabelled(await body_of(request), secret.spec.annotations)
        version = version_of(request)

        def change(spec: SecretSpec) -> SecretSpec:
            if version != secret.meta.version or spec != secret.spec:
                raise Conflict(failures.OUT_OF_SEQUENCE)
            return replace(spec, annotations=annotations)

        await self._desk.client.secrets.update(secret.id, change)
        return done()

    async def remove(self, request: web.Request) -> web.StreamResponse:
        """Remove a secret that no service uses."""
        secret = await self._find(request.match_info["ref"])
        try:
            await self._desk.client.secrets.remove(secret.id)
        except FailedPrecondition as error:
            raise InvalidArgument(f"secret '{secret.spec.annotations.name}' is in use: {error}") from None
        return done(204)

    async def _find(self, ref: str) -> Secret:
        try:
            return await self._desk.client.secrets.get(ref)
        except NotFound:
            raise failures.not_found("secret", ref) from None


class Configs:
    """``/configs``."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    async def list(self, request: web.Request) -> web.StreamResponse:
        """List configs; superseded versions are not told of, Docker has none."""
        wanted = read_filters(request.query.get("filters", ""), FILTERS)
        found = await self._desk.client.configs.list()
        return answered([objects_out.config(each) for each in found if _chosen(wanted, each)])

    async def create(self, request: web.Request) -> web.StreamResponse:
        """Create a config."""
        with reading(await body_of(request)) as body:
            spec = ConfigSpec(
                annotations=Annotations(name=body.text("Name"), labels=body.mapping("Labels")),
                data=_data(body),
                templating=body.child("Templating").text("Name"),
            )
        try:
            made = await self._desk.client.configs.create(spec)
        except AlreadyExists:
            raise failures.name_taken("config", spec.annotations.name) from None
        return answered({"ID": made.id}, status=201)

    async def inspect(self, request: web.Request) -> web.StreamResponse:
        """Show a config."""
        return answered(objects_out.config(await self._find(request.match_info["ref"])))

    async def update(self, request: web.Request) -> web.StreamResponse:
        """Change a config's labels; nothing else can change."""
        config = await self._find(request.match_info["ref"])
        annotations = _relabelled(await body_of(request), config.spec.annotations)
        version = version_of(request)

        def change(spec: ConfigSpec) -> ConfigSpec:
            if version != config.meta.version or spec != config.spec:
                raise Conflict(failures.OUT_OF_SEQUENCE)
            return replace(spec, annotations=annotations)

        await self._desk.client.configs.update(config.id, change)
        return done()

    async def remove(self, request: web.Request) -> web.StreamResponse:
        """Remove a config that no service uses."""
        config = await self._find(request.match_info["ref"])
        try:
            await self._desk.client.configs.remove(config.id)
        except FailedPrecondition as error:
            raise InvalidArgument(f"config '{config.spec.annotations.name}' is in use: {error}") from None
        return done(204)

    async def _find(self, ref: str) -> Config:
        try:
            return await self._desk.client.configs.get(ref)
        except NotFound:
            raise failures.not_found("config", ref) from None


def _chosen(wanted: Wanted, thing: Secret | Config) -> bool:
    name = thing.spec.annotations.name
    return (
        thing.superseded_by is None
        and begins(wanted, "id", thing.id)
        and begins(wanted, "name", name)
        and ("names" not in wanted or name in wanted["names"])
        and labelled(wanted, "label", thing.spec.annotations.labels)
    )


def _data(body: Body) -> bytes:
    try:
        return base64.b64decode(body.text("Data"), validate=True)
    except binascii.Error as error:
        raise InvalidArgument(f"Data is not base64: {error}") from None


def _relabelled(value: object, old: Annotations) -> Annotations:
    with reading(value) as body:
        body.ignore("Data", "Driver", "Templating")
        name = body.text("Name") or old.name
        if name != old.name:
            raise InvalidArgument("only updates to Labels are allowed")
        return Annotations(name=name, labels=body.mapping("Labels"))
