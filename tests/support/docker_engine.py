"""A Docker engine of a test's own: started in a temporary directory, stopped by pid, nothing mounted or running afterwards.

It has a bridge of its own and touches no packet filter; its only image is ``swarmbus-test:busybox``, made from the machine's
static busybox.
"""

from __future__ import annotations

import io
import itertools
import os
import shutil
import signal
import subprocess
import tarfile
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from services.kit.runtime.clock import SystemClock

IMAGE = "swarmbus-test:busybox"
BUSYBOX = Path("/bin/busybox")
SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
START_S = 30.0
STOP_S = 20.0
LOOK_AGAIN_S = 0.05
APPLETS = (
    "sh",
    "sleep",
    "echo",
    "cat",
    "true",
    "false",
    "env",
    "id",
    "kill",
    "pwd",
    "seq",
    "test",
    "httpd",
    "ls",
    "head",
    "hostname",
    "nc",
    "touch",
    "rm",
    "tar",
    "mkdir",
    "stat",
    "stty",
    "df",
    "tail",
    "cut",
    "grep",
)
CLOCK = SystemClock()
_NUMBERS = itertools.count(1)
"""Engines of one test process side by side have a bridge each."""


def missing() -> str:
    """Say why no engine can be started here; empty when one can."""
    if os.geteuid() != 0:
        return "dockerd needs root"
    if dockerd() is None or shutil.which("containerd", path=SYSTEM_PATH) is None:
        return "dockerd or containerd is not installed (Debian: docker.io)"
    if shutil.which("ip") is None or shutil.which("docker") is None:
        return "the docker and ip commands are needed (Debian: docker.io, iproute2)"
    if not BUSYBOX.exists():
        return "there is no static busybox to make an image of (Debian: busybox-static)"
    return ""


def dockerd() -> str | None:
    """Return where dockerd is."""
    return shutil.which("dockerd", path=SYSTEM_PATH)


class DockerEngine:
    """One dockerd beside a containerd of its own, as packages set them up. ``kill`` and ``start`` make dockerd crash and come back."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.socket = str(directory / "docker.sock")
        self._number = next(_NUMBERS)
        self._bridge = f"swb{os.getpid()}x{self._number}"
        self._files = b""
        self._process: subprocess.Popen[bytes] | None = None
        self._containerd: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it and wait until it answers."""
        path = dockerd()
        assert path is not None, "see missing()"
        if self._containerd is None:
            self._start_containerd()
        config = self.directory / "daemon.json"
        config.write_text("{}")
        if not Path(f"/sys/class/net/{self._bridge}").exists():
            address = f"172.29.{(os.getpid() + self._number) % 250}.1/24"
            _ip("link", "add", self._bridge, "type", "bridge")
            _ip("addr", "add", address, "dev", self._bridge)
            _ip("link", "set", self._bridge, "up")
        self._process = self._spawn(
            "dockerd.log",
            path,
            f"--config-file={config}",
            f"--host=unix://{self.socket}",
            f"--containerd={self._containerd_socket}",
            f"--data-root={self.directory / 'data'}",
            f"--exec-root={self.directory / 'exec'}",
            f"--pidfile={self.directory / 'docker.pid'}",
            "--iptables=false",
            "--ip-masq=false",
            f"--bridge={self._bridge}",
            "--live-restore",
            "--storage-driver=vfs",
        )
        self._wait_until_it_answers()

    def kill(self) -> None:
        """Kill it as a crash does; containers run on (live restore)."""
        assert self._process is not None, "it runs"
        self._process.kill()
        self._process.wait()
        self._process = None

    def stop(self) -> None:
        """End every container, then the engine, then what it mounted; idempotent."""
        if self._process is not None:
            if self._process.poll() is None:
                names = self.cli("ps", "-aq").split()
                if names:
                    self.cli("rm", "-f", *names)
                self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None
        self._end_containerd()
        if Path(f"/sys/class/net/{self._bridge}").exists():
            _ip("link", "delete", self._bridge)
        for mounted in reversed(self._mounts()):
            subprocess.run(["umount", "-l", mounted], check=False, capture_output=True)

    def cli(self, *arguments: str, data: bytes | None = None) -> str:
        """Run the docker command against this engine and return its output."""
        command = ["docker", f"--host=unix://{self.socket}", *arguments]
        done = subprocess.run(command, input=data, capture_output=True, check=True, timeout=60)
        return done.stdout.decode().strip()

    def derive_image(self, name: str, *changes: str) -> None:
        """Make another image of the test image's files, with instructions of a Dockerfile."""
        options = [word for change in changes for word in ("--change", change)]
        self.cli("import", *options, "-", name, data=self._files)

    def make_image(self) -> None:
        """Import the test image."""
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w") as tar:
            for name, mode in (("bin", 0o755), ("etc", 0o755), ("tmp", 0o777), ("run", 0o777), ("data", 0o777)):
                directory = tarfile.TarInfo(name)
                directory.type, directory.mode = tarfile.DIRTYPE, mode
                tar.addfile(directory)
            tar.add(BUSYBOX.resolve(), "bin/busybox")
            for applet in APPLETS:
                link = tarfile.TarInfo(f"bin/{applet}")
                link.type, link.linkname = tarfile.SYMTYPE, "busybox"
                tar.addfile(link)
            for name, text in (
                ("etc/passwd", "root:x:0:0::/:/bin/sh\nworker:x:1000:1000::/:/bin/sh\n"),
                ("etc/group", "root:x:0:\nworker:x:1000:\n"),
            ):
                entry = tarfile.TarInfo(name)
                entry.size = len(text)
                tar.addfile(entry, io.BytesIO(text.encode()))
        self._files = packed.getvalue()
        self.derive_image(IMAGE, "CMD sleep 1000000")

    def _answers(self) -> bool:
        assert self._process is not None, "it was started"
        if self._process.poll() is not None:
            raise AssertionError(f"dockerd ended:\n{self.log_tail()}")
        done = subprocess.run(
            ["docker", f"--host=unix://{self.socket}", "version"], capture_output=True, check=False, timeout=10
        )
        return done.returncode == 0

    def log_tail(self) -> str:
        """Return the end of its log."""
        return "\n".join((self.directory / "dockerd.log").read_text(errors="replace").splitlines()[-30:])

    def _wait_until_it_answers(self) -> None:
        deadline = CLOCK.monotonic() + START_S
        while not self._answers():
            assert CLOCK.monotonic() < deadline, f"dockerd did not answer within {START_S} s:\n{self.log_tail()}"
            threading.Event().wait(LOOK_AGAIN_S)

    @property
    def _containerd_socket(self) -> Path:
        return self.directory / "containerd.sock"

    def _start_containerd(self) -> None:
        """Start it, because a containerd that dockerd starts dies with it and is then taken for alive while nobody reaps it."""
        path = shutil.which("containerd", path=SYSTEM_PATH)
        assert path is not None, "see missing()"
        config = self.directory / "containerd.toml"
        config.write_text(
            f'version = 2\nroot = "{self.directory}/containerd"\nstate = "{self.directory}/containerd-run"\n'
            f'disabled_plugins = ["io.containerd.grpc.v1.cri"]\n[grpc]\n  address = "{self._containerd_socket}"\n'
        )
        self._containerd = self._spawn("containerd.log", path, f"--config={config}")
        deadline = CLOCK.monotonic() + START_S
        while not self._containerd_socket.exists():
            assert CLOCK.monotonic() < deadline, "containerd did not come up"
            threading.Event().wait(LOOK_AGAIN_S)

    def _end_containerd(self) -> None:
        if self._containerd is not None:
            self._containerd.terminate()
            try:
                self._containerd.wait(STOP_S)
            except subprocess.TimeoutExpired:
                self._containerd.kill()
                self._containerd.wait()
            self._containerd = None

    def _spawn(self, log_name: str, *command: str) -> subprocess.Popen[bytes]:
        with (self.directory / log_name).open("ab") as log:
            return subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                env={"PATH": SYSTEM_PATH, "HOME": str(self.directory)},
            )

    def _mounts(self) -> list[str]:
        lines = Path("/proc/self/mounts").read_text().splitlines()
        return [line.split()[1] for line in lines if line.split()[1].startswith(str(self.directory))]


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, timeout=10)


@contextmanager
def docker_engine() -> Iterator[DockerEngine]:
    """Run an engine with the test image."""
    directory = Path(tempfile.mkdtemp(prefix="swarmbus-docker-"))
    engine = DockerEngine(directory)
    try:
        engine.start()
        engine.make_image()
        yield engine
    finally:
        engine.stop()
        shutil.rmtree(directory, ignore_errors=True)
