"""Which registry an image comes from, and with which of the swarm's credentials it is fetched."""

from __future__ import annotations

import pytest

from services.agent.core.credentials import Credentials, registry_of
from services.kit.messages.session import RegistryAuth


@pytest.mark.parametrize(
    ("image", "registry"),
    [
        ("nginx", "docker.io"),
        ("team/app:1", "docker.io"),
        ("docker.io/library/nginx", "docker.io"),
        ("registry.example.com/team/app@sha256:0", "registry.example.com"),
        ("localhost/app", "localhost"),
        ("localhost:5000/app:2", "localhost:5000"),
        ("node1:5000/app", "node1:5000"),
    ],
)
def test_the_registry_is_the_first_part_if_it_is_a_host(image: str, registry: str) -> None:
    assert registry_of(image) == registry


def test_credentials_are_found_by_registry_and_replaced_as_a_whole() -> None:
    credentials = Credentials()
    credentials.replace((RegistryAuth(registry="a.b", auth="1"), RegistryAuth(registry="docker.io", auth="2")))
    assert [credentials.find(image) for image in ("a.b/app", "nginx", "c.d/app")] == ["1", "2", ""]
    credentials.replace(())
    assert credentials.find("nginx") == ""
