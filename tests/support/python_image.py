"""A base image for our Dockerfile, made of this machine's own Python: its standard library, what swarmbus depends on, pip, and busybox.

No registry is asked: everything comes from the files that run this test. Used by the test of Dockerfile and compose.yaml.
"""

from __future__ import annotations

import importlib.metadata
import io
import re
import subprocess
import sys
import tarfile
import tomllib
from collections.abc import Iterable, Iterator
from pathlib import Path

from tests.support.docker_engine import BUSYBOX, DockerEngine

ROOT = Path(__file__).parents[2]
BASE_IMAGE = "swarmbus-test:python"
VERSION = f"python{sys.version_info.major}.{sys.version_info.minor}"
LIBRARY = f"usr/local/lib/{VERSION}"
LEFT_OUT = frozenset({"test", "tests", "idlelib", "tkinter", "turtledemo", "lib2to3", "site-packages", "__pycache__"})
APPLETS = (
    "sh",
    "cat",
    "chmod",
    "env",
    "hostname",
    "id",
    "kill",
    "ls",
    "mkdir",
    "mv",
    "printf",
    "ps",
    "rm",
    "sleep",
    "test",
)
_NAME = re.compile(r"[A-Za-z0-9_.-]+")


def runtime_distributions() -> list[importlib.metadata.Distribution]:
    """Return what swarmbus needs at run time, with all that that needs, and pip."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    waiting = ["pip", *(_name(line) for line in project["dependencies"])]
    found: dict[str, importlib.metadata.Distribution] = {}
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        try:
            found[name] = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            continue  # needed on another platform only
        waiting += [_name(line) for line in found[name].requires or () if "extra ==" not in line]
    return list(found.values())


def _name(requirement: str) -> str:
    match = _NAME.match(requirement)
    assert match is not None, requirement
    return match[0]


def make_base_image(engine: DockerEngine) -> None:
    """Import the image."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        _add_busybox(tar)
        executable = Path(sys.base_prefix) / "bin" / VERSION
        tar.add(executable.resolve(), f"usr/local/bin/{VERSION}")
        _link(tar, "usr/local/bin/python3", VERSION)
        standard = Path(sys.base_prefix) / "lib" / VERSION
        tar.add(standard, LIBRARY, filter=_kept)
        native = [executable.resolve(), *standard.glob("lib-dynload/*.so")]
        for path, inside in _distribution_files():
            tar.add(path, f"{LIBRARY}/site-packages/{inside}", recursive=False)
            if ".so" in path.name:
                native.append(path)
        for name, library in sorted({library.name: library for library in _libraries(native)}.items()):
            tar.add(library.resolve(), f"lib/{name}")
        loader = next(iter(sorted(Path("/lib64").glob("ld-linux*"))))
        tar.add(loader.resolve(), f"lib64/{loader.name}")
        _add_texts(tar)
    engine.cli("import", "--change", "ENV PATH=/usr/local/bin:/bin:/usr/bin", "-", BASE_IMAGE, data=packed.getvalue())


def _distribution_files() -> Iterator[tuple[Path, str]]:
    seen: set[str] = set()
    for distribution in runtime_distributions():
        for file in distribution.files or ():
            path = Path(str(distribution.locate_file(file)))
            inside = str(file)
            if ".." in file.parts or "__pycache__" in file.parts or inside in seen or not path.is_file():
                continue
            seen.add(inside)
            yield path, inside


def _kept(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
    parts = Path(entry.name).parts[4:]
    return None if LEFT_OUT & {*parts} or any(part.startswith("config-") for part in parts) else entry


def _libraries(native: Iterable[Path]) -> set[Path]:
    """Return the shared libraries of the system that these files load."""
    found: set[Path] = set()
    done = subprocess.run(["ldd", *map(str, native)], capture_output=True, text=True, check=False, timeout=60)
    for line in done.stdout.splitlines():
        _, arrow, rest = line.strip().partition(" => ")
        path = Path(rest.partition(" ")[0])
        if arrow and path.is_file() and "site-packages" not in path.parts:
            found.add(path)
    return found


def _add_busybox(tar: tarfile.TarFile) -> None:
    tar.add(BUSYBOX.resolve(), "bin/busybox")
    for applet in APPLETS:
        _link(tar, f"bin/{applet}", "busybox")


def _link(tar: tarfile.TarFile, name: str, target: str) -> None:
    link = tarfile.TarInfo(name)
    link.type, link.linkname = tarfile.SYMTYPE, target
    tar.addfile(link)


def _add_texts(tar: tarfile.TarFile) -> None:
    for name, text in (
        ("etc/passwd", "root:x:0:0::/root:/bin/sh\nnobody:x:65534:65534::/:/bin/sh\n"),
        ("etc/group", "root:x:0:\nnogroup:x:65534:\n"),
        ("etc/nsswitch.conf", "hosts: files dns\n"),
        ("etc/ld.so.conf", "/lib\n"),
    ):
        entry = tarfile.TarInfo(name)
        entry.size = len(text)
        tar.addfile(entry, io.BytesIO(text.encode()))
    for name in ("tmp", "run", "root", "var/lib"):
        entry = tarfile.TarInfo(name)
        entry.type, entry.mode = tarfile.DIRTYPE, 0o1777 if name == "tmp" else 0o755
        tar.addfile(entry)
