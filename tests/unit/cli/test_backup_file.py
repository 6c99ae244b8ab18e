"""The file of a backup: what was written comes out, and whatever was changed is noticed."""

from __future__ import annotations

import random

import pytest

from services.cli.backup.content import content_of
from services.cli.backup.file import opened, sealed
from services.kit.errors import FailedPrecondition
from services.kit.messages.backup import BackupItem, StoredObject
from services.kit.model.ids import ClusterId, SecretId, ServiceId
from services.kit.model.objects import Object, Secret, Service
from services.kit.model.specs import (
    Annotations,
    ContainerSpec,
    FileTarget,
    SecretReference,
    SecretSpec,
    ServiceSpec,
    TaskSpec,
)
from services.kit.state.tables import TABLE_OF, encode_object

SALT = bytes(range(16))
WORDS = "correct horse"


def a_service() -> Service:
    reference = SecretReference(secret_id=SecretId("s1"), secret_name="key", target=FileTarget(name="key"))
    task = TaskSpec(driver="fake", container=ContainerSpec(image="v1", secrets=(reference,)))
    return Service(id=ServiceId("web"), spec=ServiceSpec(annotations=Annotations(name="web"), task=task))


def a_secret() -> Secret:
    return Secret(id=SecretId("s1"), spec=SecretSpec(annotations=Annotations(name="key"), data=b"hush hush"))


def parts(*things: Object, total: int | None = None) -> tuple[BackupItem, ...]:
    """Return a backup with one object in each part."""
    return tuple(
        BackupItem(
            version=7,
            cluster_id=ClusterId("c"),
            at=1.0,
            total=len(things) if total is None else total,
            objects=(StoredObject(table=TABLE_OF[type(thing)], object=encode_object(thing)),),
        )
        for thing in things
    )


def is_refused(content: bytes) -> bool:
    try:
        opened(content, WORDS)
    except FailedPrecondition:
        return True
    return False


def test_what_was_sealed_is_opened() -> None:
    whole = parts(a_secret(), a_service())
    content = sealed(whole, WORDS, SALT)
    assert opened(content, WORDS) == whole
    assert b"hush" not in content


def test_another_passphrase_opens_nothing() -> None:
    with pytest.raises(FailedPrecondition, match="passphrase is wrong"):
        opened(sealed(parts(a_secret()), WORDS, SALT), "wrong horse")


def test_a_file_that_was_changed_anywhere_is_refused() -> None:
    content = sealed(parts(a_secret(), a_service()), WORDS, SALT)
    seed = random.randrange(2**32)
    places = random.Random(seed).sample(range(len(content)), 40)
    for place in places:
        changed = content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]
        assert is_refused(changed), f"seed {seed}: nobody noticed a change at {place}"


def test_a_file_that_was_cut_off_is_refused_also_between_its_parts() -> None:
    whole = parts(a_secret(), a_service())
    content = sealed(whole, WORDS, SALT)
    header = content.index(b"\n") + 1
    first = header + 4 + int.from_bytes(content[header : header + 4])
    for cut in (0, 10, header, header + 2, first, first + 3, len(content) - 1):
        assert is_refused(content[:cut]), f"nobody noticed that {len(content) - cut} bytes are missing"


def test_parts_in_another_order_are_refused() -> None:
    content = sealed(parts(a_secret(), a_secret(), a_service()), WORDS, SALT)
    header = content.index(b"\n") + 1
    size = 4 + int.from_bytes(content[header : header + 4])
    swapped = content[:header] + content[header + size : header + 2 * size] + content[header : header + size]
    with pytest.raises(FailedPrecondition):
        opened(swapped + content[header + 2 * size :], WORDS)


@pytest.mark.parametrize("content", [b"", b"hello", b"{}\n", b'{"format": "tar"}\n', b"\xff\xfe\n" * 100])
def test_any_other_file_is_no_backup(content: bytes) -> None:
    with pytest.raises(FailedPrecondition, match="no backup of a swarm"):
        opened(content, WORDS)


def test_a_header_cannot_ask_for_endless_work() -> None:
    content = sealed(parts(a_secret()), WORDS, SALT).replace(b'"cost": 32768', b'"cost": 1073741824')
    with pytest.raises(FailedPrecondition, match="first line was changed"):
        opened(content, WORDS)


def test_what_a_whole_backup_holds_is_counted() -> None:
    content = content_of(parts(a_secret(), a_service()))
    assert content.counts == {"secret": 1, "service": 1}
    assert content.version == 7


def test_a_backup_without_what_its_services_use_is_refused() -> None:
    with pytest.raises(FailedPrecondition, match="secret key of service web"):
        content_of(parts(a_service()))


def test_a_backup_that_lacks_objects_is_refused() -> None:
    with pytest.raises(FailedPrecondition, match="1 of 2"):
        content_of(parts(a_secret(), total=2))
