"""Generic resources: what a task is handed, and who still has what."""

from __future__ import annotations

import pytest

from services.agent.core.resources import dealt_devices, holder, parse_devices, resource_environment
from services.kit.errors import InvalidArgument
from services.kit.model.specs import GenericResource
from tests.support.agents import task_id

GPUS = GenericResource(kind="GPU", names=("a", "b"))
DISKS = GenericResource(kind="fast-disk", count=2)


def test_variables_name_what_was_dealt() -> None:
    assert resource_environment((GPUS, DISKS)) == {
        "SWARMBUS_RESOURCE_GPU": "a,b",
        "DOCKER_RESOURCE_GPU": "a,b",
        "SWARMBUS_RESOURCE_FAST_DISK": "2",
        "DOCKER_RESOURCE_FAST_DISK": "2",
    }


def test_devices_go_with_resources_by_name_or_by_kind() -> None:
    devices = parse_devices(
        (
            "GPU/a=/dev/nvidia0",
            "GPU/b=/dev/nvidia1",
            "GPU/c=/dev/nvidia2",
            "GPU=/dev/nvidiactl",
            "fast-disk=/dev/sdb:/dev/x:r",
        )
    )
    assert dealt_devices((GPUS, DISKS), devices) == (
        "/dev/nvidiactl",
        "/dev/nvidia0",
        "/dev/nvidia1",
        "/dev/sdb:/dev/x:r",
    )
    assert dealt_devices((), devices) == ()


def test_every_mistake_in_a_device_map_is_named() -> None:
    with pytest.raises(InvalidArgument) as refused:
        parse_devices(("GPU", "=x", "GPU/a=/dev/null"))
    assert [problem.path for problem in refused.value.details.problems] == ["resource_devices.0", "resource_devices.1"]


def test_a_named_resource_has_one_holder_and_counted_ones_have_none() -> None:
    others = [(task_id(1), (GenericResource(kind="GPU", names=("b",)),)), (task_id(2), (DISKS,))]
    assert holder((GPUS,), others) == ("GPU b", task_id(1))
    assert holder((DISKS,), others) is None
    assert holder((GenericResource(kind="TPU", names=("b",)),), others) is None
