"""Which taskd this is: a checksum of the sources beside this file, so that an agent notices that taskd is older than itself."""

from __future__ import annotations

import binascii
import os


def build_number() -> int:
    """Return the checksum of taskd's sources as they are on disk now."""
    checksum = 0
    folder = os.path.dirname(os.path.abspath(__file__))
    for name in sorted(name for name in os.listdir(folder) if name.endswith(".py")):
        with open(f"{folder}/{name}", "rb") as file:
            checksum = binascii.crc32(file.read(), checksum)
    return checksum
