"""Cluster volumes, part of what users ask of the control API. Answered by the leader's dispatcher."""

from __future__ import annotations

from services.kit.messages.control import GetRequest, ListRequest
from services.kit.messages.method import MANAGERS, Call, Empty, Owner
from services.kit.model.ids import VolumeId
from services.kit.model.objects import Volume
from services.kit.model.value import Value
from services.kit.model.volumes import VolumeSpec


class VolumeReply(Value, frozen=True, kw_only=True):
    """One volume."""

    volume: Volume


class VolumeList(Value, frozen=True, kw_only=True):
    """Volumes by name."""

    volumes: tuple[Volume, ...] = ()


class CreateVolumeRequest(Value, frozen=True, kw_only=True):
    """Create a volume. The same request id twice creates one."""

    spec: VolumeSpec
    request_id: str = ""


class UpdateVolumeRequest(Value, frozen=True, kw_only=True):
    """Change a volume's labels and availability; the rest never changes."""

    volume_id: VolumeId
    version: int
    spec: VolumeSpec


class RemoveVolumeRequest(Value, frozen=True, kw_only=True):
    """Remove a volume and what is on it; refused while a task uses it. Forced, the driver is not asked."""

    volume_id: VolumeId
    force: bool = False


LIST_VOLUMES = Call(
    name="control.list_volumes",
    request=ListRequest,
    reply=VolumeList,
    owner=Owner.DISPATCHER,
    roles=MANAGERS,
    idempotent=True,
)
GET_VOLUME = Call(
    name="control.get_volume",
    request=GetRequest,
    reply=VolumeReply,
    owner=Owner.DISPATCHER,
    roles=MANAGERS,
    idempotent=True,
)
CREATE_VOLUME = Call(
    name="control.create_volume",
    request=CreateVolumeRequest,
    reply=VolumeReply,
    owner=Owner.DISPATCHER,
    roles=MANAGERS,
    leader=True,
)
UPDATE_VOLUME = Call(
    name="control.update_volume",
    request=UpdateVolumeRequest,
    reply=VolumeReply,
    owner=Owner.DISPATCHER,
    roles=MANAGERS,
    leader=True,
)
REMOVE_VOLUME = Call(
    name="control.remove_volume",
    request=RemoveVolumeRequest,
    reply=Empty,
    owner=Owner.DISPATCHER,
    roles=MANAGERS,
    leader=True,
)

METHODS = (LIST_VOLUMES, GET_VOLUME, CREATE_VOLUME, UPDATE_VOLUME, REMOVE_VOLUME)
