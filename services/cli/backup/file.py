"""The file of a backup: one line that says how it was made, then parts that are encrypted and bound to their place.

Used by ``swarmctl backup``. The key is made from a passphrase by scrypt (RFC 7914) with a salt of its own, so it encrypts this one file;
each part is AES-256-GCM with its number as nonce, and its number, whether it is the last, and the first line as associated data. What must
stay true: whatever was changed, cut off, put in another order or added is noticed, and nothing is returned of such a file.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator, Sequence
from typing import NoReturn

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from services.kit.errors import FailedPrecondition
from services.kit.messages.backup import BackupItem
from services.kit.wire import codec

FORMAT = "swarmbus-backup"
SALT_BYTES = 16
COST = 1 << 15
_COST_MAX = 1 << 20
_BLOCKS = 8
_KEY_BYTES = 32
_HEADER_BYTES_MAX = 1024
_LENGTH = struct.Struct(">I")
_PLACE = struct.Struct(">Q?")
_NONCE = struct.Struct(">IQ")


def sealed(parts: Sequence[BackupItem], passphrase: str, salt: bytes) -> bytes:
    """Return the file's content; ``salt`` is fresh."""
    assert parts, "a backup has at least the settings in it"
    header = json.dumps({"format": FORMAT, "version": 1, "kdf": "scrypt", "cost": COST, "salt": salt.hex()}).encode()
    cipher = AESGCM(_key(passphrase, salt, COST))
    content = [header, b"\n"]
    for number, part in enumerate(parts):
        last = number == len(parts) - 1
        data = cipher.encrypt(_NONCE.pack(0, number), codec.encode(part), _PLACE.pack(number, last) + header)
        content += [_LENGTH.pack(len(data)), data]
    return b"".join(content)


def opened(content: bytes, passphrase: str) -> tuple[BackupItem, ...]:
    """Return the parts; raises FailedPrecondition when the passphrase is wrong or the file is not what was written."""
    header = content[: _HEADER_BYTES_MAX + 1].partition(b"\n")[0]
    salt, cost = _read_header(header)
    cipher = AESGCM(_key(passphrase, salt, cost))
    pieces = list(_pieces(content[len(header) + 1 :]))
    parts = []
    for number, piece in enumerate(pieces):
        last = number == len(pieces) - 1
        try:
            data = cipher.decrypt(_NONCE.pack(0, number), piece, _PLACE.pack(number, last) + header)
        except InvalidTag:
            _refuse(_why(number))
        parts.append(codec.decode(BackupItem, data))
    return tuple(parts)


def _why(number: int) -> str:
    if number == 0:
        return "the passphrase is wrong, or the file was changed or cut off"
    return f"the file was changed or cut off: part {number + 1} is not what was written"


def _read_header(header: bytes) -> tuple[bytes, int]:
    try:
        said = json.loads(header)
        known = said["format"] == FORMAT
        version, salt, cost = int(said["version"]), bytes.fromhex(said["salt"]), int(said["cost"])
    except (ValueError, KeyError, TypeError):
        _refuse("this is no backup of a swarm")
    if not known:
        _refuse("this is no backup of a swarm")
    if version != 1:
        _refuse(f"the file has version {version} of the format; this swarmctl reads version 1")
    if not 2 <= cost <= _COST_MAX or cost & (cost - 1):
        _refuse("the file's first line was changed")
    return salt, cost


def _pieces(data: bytes) -> Iterator[bytes]:
    at = 0
    while at < len(data):
        if at + _LENGTH.size > len(data):
            _refuse("the file was cut off")
        (size,) = _LENGTH.unpack_from(data, at)
        at += _LENGTH.size
        if size > codec.BYTES_MAX or at + size > len(data):
            _refuse("the file was changed or cut off")
        yield data[at : at + size]
        at += size
    if not data:
        _refuse("the file was cut off: it holds nothing")


def _key(passphrase: str, salt: bytes, cost: int) -> bytes:
    return Scrypt(salt=salt, length=_KEY_BYTES, n=cost, r=_BLOCKS, p=1).derive(passphrase.encode())


def _refuse(reason: str) -> NoReturn:
    raise FailedPrecondition(reason)
