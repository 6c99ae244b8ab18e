"""Archives out of tasks are unpacked where they were meant to go, and nowhere else."""

from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path

import pytest

from services.cli.archives import packed, unpacking
from tests.support.running import run_async


def archive(*entries: tuple[str, bytes, bytes]) -> bytes:
    """Return an archive of (name, type, data or link)."""
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as tar:
        for name, kind, data in entries:
            entry = tarfile.TarInfo(name)
            entry.type = kind
            if kind == tarfile.REGTYPE:
                entry.size = len(data)
                tar.addfile(entry, io.BytesIO(data))
            else:
                entry.linkname = data.decode()
                tar.addfile(entry)
    return made.getvalue()


def unpack(data: bytes, place: Path, name: str = "") -> None:
    async def scenario() -> None:
        async with unpacking(place, name) as take:
            for start in range(0, len(data), 1000):
                await take(data[start : start + 1000])

    run_async(scenario())


def test_a_tree_comes_out_as_it_went_in(tmp_path: Path) -> None:
    data = os.urandom(300_000)
    (tmp_path / "tree" / "sub").mkdir(parents=True)
    (tmp_path / "tree" / "sub" / "data").write_bytes(data)
    (tmp_path / "out").mkdir()

    async def scenario() -> None:
        async with unpacking(tmp_path / "out", "copy") as take:
            async for piece in packed(tmp_path / "tree", "tree"):
                await take(piece)

    run_async(scenario())
    assert (tmp_path / "out" / "copy" / "sub" / "data").read_bytes() == data


@pytest.mark.parametrize(
    ("name", "kind", "data"),
    [
        ("/absolute", tarfile.REGTYPE, b"x"),
        ("a/../../out", tarfile.REGTYPE, b"x"),
        ("a/link", tarfile.SYMTYPE, b"/etc/passwd"),
        ("a/link", tarfile.SYMTYPE, b"../../outside"),
        ("a/device", tarfile.CHRTYPE, b""),
    ],
)
def test_what_leads_out_of_its_place_is_refused(tmp_path: Path, name: str, kind: bytes, data: bytes) -> None:
    place = tmp_path / "place"
    place.mkdir()
    with pytest.raises(tarfile.TarError):
        unpack(archive((name, kind, data)), place)
    assert not any(entry.is_file() for entry in tmp_path.rglob("*"))


def test_an_archive_that_breaks_off_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(tarfile.TarError):
        unpack(archive(("a", tarfile.REGTYPE, b"x" * 10_000))[:5000], tmp_path)


def test_a_place_that_takes_nothing_says_so_while_much_still_comes(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "in the way").touch()
    with pytest.raises(OSError, match="directory"):
        unpack(archive(("a", tarfile.REGTYPE, b"x" * 500_000)), tmp_path)


def test_a_source_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    async def scenario() -> None:
        async for _ in packed(tmp_path / "missing", "missing"):
            continue

    with pytest.raises(FileNotFoundError):
        run_async(scenario())
