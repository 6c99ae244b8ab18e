"""Sealed files: a preamble and frames whose payloads are encrypted under a key of this very file. The log and the snapshots are such.

Each file has its own key, derived from the data key and a random salt, so that a counter can be the nonce. A file that was cut or left
unfinished is never written to again: the same counter would seal two payloads.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from services.kit.errors import DataLoss
from services.raft.core import frames

SALT_BYTES = 16
_MAGIC = b"SWARMLOG"
_PREAMBLE = struct.Struct(f"<8sQQ{SALT_BYTES}s")
_CRC = struct.Struct("<I")
PREAMBLE_BYTES = _PREAMBLE.size + _CRC.size
_NONCE = struct.Struct("<IQ")
WAY_BACK = (
    "nothing was changed. If the other managers are well, stop this node, remove its raft directory and start it again:"
    " it joins anew and fetches everything from them"
)


class Preamble(NamedTuple):
    """What a sealed file says of itself."""

    number: int
    first_sequence: int
    salt: bytes


class Cipher:
    """Seals and opens the payloads of one file."""

    def __init__(self, data_key: bytes, salt: bytes) -> None:
        key = HKDF(algorithm=SHA256(), length=32, salt=salt, info=b"swarmbus raft file").derive(data_key)
        self._aead = AESGCM(key)

    def seal(self, sequence: int, payload: bytes) -> bytes:
        """Return the frame of a payload."""
        return frames.pack(sequence, self._aead.encrypt(_NONCE.pack(0, sequence), payload, None))

    def fits(self, frame: frames.Frame) -> bool:
        """Tell whether this cipher sealed a frame."""
        try:
            self._aead.decrypt(_NONCE.pack(0, frame.sequence), bytes(frame.payload), None)
        except InvalidTag:
            return False
        return True

    def open(self, frame: frames.Frame, path: Path) -> bytes:
        """Return the payload of a frame."""
        try:
            return self._aead.decrypt(_NONCE.pack(0, frame.sequence), bytes(frame.payload), None)
        except InvalidTag:
            raise DataLoss(
                f"{path}: frame {frame.sequence} does not open with this node's data key; {WAY_BACK}"
            ) from None


def key_of(data_keys: Sequence[bytes], salt: bytes, frame: frames.Frame | None) -> bytes:
    """Return the key that a file with this first frame was sealed under, the newest when none fits."""
    if len(data_keys) > 1 and frame is not None:
        for data_key in data_keys:
            if Cipher(data_key, salt).fits(frame):
                return data_key
    return data_keys[0]


def preamble(value: Preamble) -> bytes:
    """Return a preamble's bytes."""
    body = _PREAMBLE.pack(_MAGIC, *value)
    return body + _CRC.pack(zlib.crc32(body))


def read_preamble(data: bytes, path: Path) -> Preamble:
    """Return the preamble at the start of a file; raises DataLoss."""
    body = data[: _PREAMBLE.size]
    whole = len(data) >= PREAMBLE_BYTES and _CRC.unpack_from(data, _PREAMBLE.size)[0] == zlib.crc32(body)
    if not whole or not body.startswith(_MAGIC):
        raise DataLoss(f"{path} does not begin like a file of the store; {WAY_BACK}")
    _, number, first_sequence, salt = _PREAMBLE.unpack(body)
    return Preamble(number, first_sequence, salt)


def read_payloads(path: Path, data_keys: Sequence[bytes]) -> Iterator[bytes]:
    """Yield the payloads of a file that was finished; raises DataLoss at the first thing that is wrong."""
    with path.open("rb") as file:
        head = read_preamble(file.read(PREAMBLE_BYTES), path)
        cipher: Cipher | None = None
        sequence = head.first_sequence
        while header := file.read(frames.HEADER_BYTES):
            length = frames.claimed_length(header)
            data = memoryview(header + (file.read(length) if length is not None else b""))
            frame = frames.read(data, 0)
            if frame is None or frame.sequence != sequence:
                raise DataLoss(f"{path} is damaged in frame {sequence}; {WAY_BACK}")
            cipher = cipher or Cipher(key_of(data_keys, head.salt, frame), head.salt)
            yield cipher.open(frame, path)
            sequence += 1
