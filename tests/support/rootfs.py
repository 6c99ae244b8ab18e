"""A root file system for containers without an engine: the machine's static busybox, a user and a group."""

from __future__ import annotations

import shutil
from pathlib import Path

from services.agent.drivers.oci_runtime import find_runtime, is_root
from tests.support.docker_engine import APPLETS, BUSYBOX


def missing() -> str:
    """Say why no container can be made here; empty when one can."""
    if not is_root():
        return "containers need root"
    if find_runtime() is None:
        return "there is no runc or crun (Debian: runc)"
    if not BUSYBOX.exists():
        return "there is no static busybox (Debian: busybox-static)"
    return ""


def make_rootfs(directory: Path) -> Path:
    """Make it and return where it is."""
    for name in ("bin", "etc", "proc", "dev", "sys", "tmp", "run", "data"):
        (directory / name).mkdir(parents=True)
    (directory / "tmp").chmod(0o1777)
    shutil.copy(BUSYBOX.resolve(), directory / "bin" / "busybox")
    for applet in APPLETS:
        (directory / "bin" / applet).symlink_to("busybox")
    (directory / "etc/passwd").write_text("root:x:0:0::/:/bin/sh\nworker:x:1000:1001::/:/bin/sh\n")
    (directory / "etc/group").write_text("root:x:0:\nworker:x:1001:\nvideo:x:44:\n")
    return directory
