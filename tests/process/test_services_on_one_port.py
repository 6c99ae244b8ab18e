"""Two services on one port of a real swarm, with certificates from the store: what each node answers, and what changes without a new task."""

from __future__ import annotations

import http.client
import ssl
import sys
from functools import partial
from pathlib import Path

import pytest
from cryptography import x509

from services.client.blocking import BlockingClient
from services.client.build import service_spec
from services.kit.errors import SwarmError
from services.kit.model.specs import Annotations, SecretSpec, ServiceSpec
from tests.support.pki import web_certificate
from tests.support.plane_home import free_port
from tests.support.ports import free_remote_api
from tests.support.swarm import Swarm, wait_until

pytestmark = pytest.mark.process

TASK = Path(__file__).parents[1] / "support" / "web_task.py"
ADDRESSES = ("127.0.0.1", "127.0.0.2")


def site(name: str, *options: str) -> ServiceSpec:
    """Return a service of one task whose answers are its name."""
    command = (sys.executable, str(TASK), "{{.Task.Port}}", name)
    return service_spec(name, command=command, ports=[",".join(("target=80", *options))], replicas=1)


def secret(*names: str) -> SecretSpec:
    return SecretSpec(annotations=Annotations(name=names[0]), data=web_certificate(*names))


class Site(http.client.HTTPSConnection):
    """Asks a node by one name."""

    def __init__(self, address: str, port: int, name: str) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        super().__init__(address, port, timeout=10.0, context=context)
        self._name, self._context_of_tls = name, context

    def connect(self) -> None:
        """Connect, and ask TLS for the name instead of the address."""
        http.client.HTTPConnection.connect(self)
        self.sock = self._context_of_tls.wrap_socket(self.sock, server_hostname=self._name)

    def answer(self) -> tuple[int, str]:
        """Return the status and the text."""
        self.request("GET", "/", headers={"Host": self._name})
        response = self.getresponse()
        return response.status, response.read().decode().strip()

    def certificate_names(self) -> list[str]:
        """Return the names that the shown certificate has."""
        self.connect()
        data = self.sock.getpeercert(binary_form=True)
        assert data is not None
        names = x509.load_der_x509_certificate(data).extensions.get_extension_for_class(x509.SubjectAlternativeName)
        return names.value.get_values_for_type(x509.DNSName)


def is_answered(address: str, port: int, name: str, text: str) -> bool:
    page = Site(address, port, name)
    try:
        return page.answer() == (200, text)
    except (OSError, http.client.HTTPException):
        return False
    finally:
        page.close()


def shown(address: str, port: int, name: str) -> list[str]:
    page = Site(address, port, name)
    try:
        return page.certificate_names()
    finally:
        page.close()


def is_new(address: str, port: int) -> bool:
    return shown(address, port, "a.example") == ["a.example", "new.example"]


def tasks_of(client: BlockingClient, name: str) -> set[str]:
    return {task.id for task in client.services.tasks(name)}


def test_two_services_share_a_tls_port_on_every_node_and_certificates_rotate_without_new_tasks(tmp_path: Path) -> None:
    port = free_port()
    with Swarm(tmp_path) as swarm:
        first = swarm.node("n1")
        first.start()
        second = swarm.joining("n2")
        second.remote_api = free_remote_api(ADDRESSES[1])
        second.start()
        with first.client() as client:
            client.secrets.create(secret("a.example"))
            client.secrets.create(secret("b.example"))
            published = f"published={port}"
            client.services.create(site("a", published, "host=a.example", "tls-secret=a.example"))
            client.services.create(site("b", published, "host=b.example", "tls-secret=b.example"))
            for name in ("a", "b"):
                client.services.wait(name, timeout_s=30.0)
            for address in ADDRESSES:
                for name in ("a", "b"):
                    answered = partial(is_answered, address, port, f"{name}.example", name)
                    wait_until(answered, f"{address} answers for {name}")
                    assert shown(address, port, f"{name}.example") == [f"{name}.example"]

            before = tasks_of(client, "a")
            client.secrets.rotate("a.example", web_certificate("a.example", "new.example"))
            for address in ADDRESSES:
                renewed = partial(is_new, address, port)
                wait_until(renewed, f"{address} shows the new certificate")
            assert tasks_of(client, "a") == before

            with pytest.raises(SwarmError, match="already published by service 'a'"):
                client.services.create(site("c", published, "host=A.example", "tls-secret=a.example"))
            with pytest.raises(SwarmError, match="used by service a"):
                client.secrets.remove("a.example")
