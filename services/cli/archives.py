"""Tar archives on their way into and out of tasks, packed and unpacked as they come. Used by ``cp``.

``tarfile`` blocks, so it works in a thread at the other end of a pipe; the end of either side ends the other.
"""

from __future__ import annotations

import asyncio
import os
import tarfile
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path, PurePosixPath

from services.kit.runtime.tasks import TaskOwner

PIECE_BYTES = 64 << 10

Take = Callable[[bytes], Awaitable[None]]
"""Takes the next piece of an archive."""


@asynccontextmanager
async def unpacking(place: Path, name: str) -> AsyncIterator[Take]:
    """Unpack one file or directory into a place, under a name unless that is empty, while the context lasts.

    Raises OSError and tarfile.TarError, also at the end of the context. What would leave its place is refused.
    """
    reader, writer = os.pipe()
    async with TaskOwner("unpack") as owner:
        work = owner.spawn("tar", asyncio.to_thread(_unpack, reader, place, name))

        async def take(data: bytes) -> None:
            try:
                await asyncio.to_thread(_write, writer, data)
            except BrokenPipeError:
                await work  # it says why it stopped

        try:
            yield take
        except BaseException:
            os.close(writer)
            await asyncio.gather(work, return_exceptions=True)
            raise
        os.close(writer)
        await work


async def packed(source: Path, name: str) -> AsyncGenerator[bytes, None]:
    """Yield an archive of a file or directory, which has this name in it; raises OSError."""
    reader, writer = os.pipe()
    async with TaskOwner("pack") as owner:
        work = owner.spawn("tar", asyncio.to_thread(_pack, writer, source, name))
        try:
            while data := await asyncio.to_thread(os.read, reader, PIECE_BYTES):
                yield data
        finally:
            os.close(reader)
            await asyncio.gather(work, return_exceptions=True)
        await work


def _unpack(descriptor: int, place: Path, name: str) -> None:
    with os.fdopen(descriptor, "rb") as file, tarfile.open(fileobj=file, mode="r|") as tar:
        tar.extraction_filter = getattr(tarfile, "data_filter", None)
        for entry in tar:
            first, *rest = PurePosixPath(entry.name).parts or (entry.name,)
            entry.name = str(PurePosixPath(name or first, *rest))
            _check(entry)
            tar.extract(entry, place)


def _check(entry: tarfile.TarInfo) -> None:
    """Refuse what would leave its place; Pythons before 3.11.4 look at no links themselves, so that none are unpacked there."""
    leads_out = entry.name.startswith("/") or ".." in PurePosixPath(entry.name).parts or entry.isdev()
    is_link = entry.issym() or entry.islnk()
    if leads_out or (is_link and not hasattr(tarfile, "data_filter")):
        raise tarfile.TarError(f"{entry.name!r} is not unpacked: it may lead out of its place")


def _pack(descriptor: int, source: Path, name: str) -> None:
    with os.fdopen(descriptor, "wb") as file, tarfile.open(fileobj=file, mode="w|") as tar:
        tar.add(source, arcname=name)


def _write(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]
