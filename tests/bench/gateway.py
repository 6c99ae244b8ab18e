"""What a published port costs: processor time per request and per connection, bulk, memory, beside haproxy and nginx, in one run.

The rivals balance TCP, as the gateway does; one more column is the gateway's own HTTP port. Needs wrk, nginx and haproxy (Debian has them),
and for nginx as a rival its stream module (libnginx-mod-stream). Run it alone, on a quiet machine: ``python -m tests.bench.gateway``. The candidates take
turns in every round, so that a noisy neighbour meets them all; the figures are medians of the rounds.
"""

from __future__ import annotations

import asyncio
import re
import resource
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from services.kit.model.specs import HttpConfig, IngressConfig
from tests.bench.taskd import cpu_s, pss_bytes
from tests.support.plane_home import HOST, backend, free_port, plane, route

ROUNDS = 5
SECONDS = 3
CONNECTIONS = 50
IDLE_CONNECTIONS = 2000
BULK_BYTES = 512 << 20
BACKENDS = 3
MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None
"""The big file must not wait for a disk."""

NGINX = """worker_processes 1; daemon off; pid {home}/nginx.pid; error_log /dev/null;
events {{ worker_connections 16384; }}
http {{ access_log off; sendfile on; keepalive_requests 1000000000; keepalive_timeout 600; server {{ {listen} root {home}/www; }} }}
"""
HAPROXY = """global
  nbthread 1
  maxconn 6000
defaults
  mode tcp
  timeout connect 1s
  timeout client 600s
  timeout server 600s
  option splice-auto
listen web
  bind {host}:{port}
  balance random
{servers}
"""


NGINX_STREAM_MODULE = Path("/usr/lib/nginx/modules/ngx_stream_module.so")
NGINX_STREAM = """load_module {module};
worker_processes 1; master_process off; daemon off; pid {home}/stream.pid; error_log /dev/null;
events {{ worker_connections 16384; }}
stream {{ upstream tasks {{ random two least_conn; {servers} }}
  server {{ listen {host}:{port} backlog=4096; proxy_pass tasks; proxy_connect_timeout 1s; proxy_timeout 600s; }} }}
"""


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One balancer in front of the same tasks."""

    name: str
    pid: int
    port: int


@dataclass(frozen=True, kw_only=True)
class Load:
    """What a client saw."""

    requests: int
    errors: int
    p50_ms: float
    p99_ms: float


async def wrk(port: int, *, close: bool) -> Load:
    """Drive load for a while."""
    header = ("-H", "Connection: close") if close else ()
    process = await asyncio.create_subprocess_exec(
        "wrk", "-t1", f"-c{CONNECTIONS}", f"-d{SECONDS}s", "--latency", *header, f"http://{HOST}:{port}/small",
        stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    output = (await process.communicate())[0].decode()
    requests = re.search(r"(\d+) requests in", output)
    assert requests is not None, output
    errors = [int(number) for line in re.findall(r"Socket errors: (.*)", output) for number in re.findall(r"\d+", line)]
    p50_ms, p99_ms = (_milliseconds(output, percent) for percent in ("50%", "99%"))
    return Load(requests=int(requests.group(1)), errors=sum(errors), p50_ms=p50_ms, p99_ms=p99_ms)


def _milliseconds(output: str, percent: str) -> float:
    found = re.search(rf"^\s+{percent}\s+([\d.]+)(us|ms|s)\s*$", output, re.MULTILINE)
    assert found is not None, output
    return float(found.group(1)) * {"us": 0.001, "ms": 1.0, "s": 1000.0}[found.group(2)]


def fetch_bulk(port: int) -> float:
    """Fetch the big file without looking at it and return the seconds it took."""
    buffer = bytearray(1 << 20)
    began = time.perf_counter()
    with socket.create_connection((HOST, port)) as client:
        client.sendall(b"GET /big HTTP/1.0\r\n\r\n")
        total = 0
        while count := client.recv_into(buffer, 0, socket.MSG_TRUNC):
            total += count
    assert total >= BULK_BYTES, "the whole file came"
    return time.perf_counter() - began


async def one_round(candidate: Candidate) -> dict[str, float]:
    """Measure one candidate once."""
    figures: dict[str, float] = {}
    for name, close in (("request kept alive", False), ("connection", True)):
        before = cpu_s(candidate.pid)
        load = await wrk(candidate.port, close=close)
        figures[f"us per {name}"] = (cpu_s(candidate.pid) - before) / load.requests * 1e6
        figures[f"{name}s per second"] = load.requests / SECONDS
        figures[f"{name}: p50 ms"] = load.p50_ms
        figures[f"{name}: p99 ms"] = load.p99_ms
        figures[f"{name}s failed"] = load.errors
    before = cpu_s(candidate.pid)
    seconds = await asyncio.to_thread(fetch_bulk, candidate.port)
    figures["bulk Gbit/s"] = BULK_BYTES * 8 / seconds / 1e9
    figures["bulk processor s per GB"] = (cpu_s(candidate.pid) - before) / BULK_BYTES * 1e9
    return figures


def idle_kib(candidate: Candidate) -> float:
    """Return the memory of one idle connection that was used before."""
    before = pss_bytes(candidate.pid)
    clients = []
    for _ in range(IDLE_CONNECTIONS):
        client = socket.create_connection((HOST, candidate.port))
        client.sendall(b"GET /small HTTP/1.1\r\nHost: x\r\n\r\n")
        clients.append(client)
    for client in clients:
        assert client.recv(4096)
    used = pss_bytes(candidate.pid) - before
    for client in clients:
        client.close()
    return used / 1024 / IDLE_CONNECTIONS


@contextmanager
def process(*command: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run a server until the end of the block."""
    running = subprocess.Popen(command)
    try:
        yield running
    finally:
        running.terminate()
        running.wait()


async def reachable(port: int) -> None:
    """Wait until somebody listens."""
    async with asyncio.timeout(10.0):
        while True:
            try:
                _, writer = await asyncio.open_connection(HOST, port)
            except ConnectionRefusedError:
                await asyncio.sleep(0.01)
            else:
                writer.close()
                return


@asynccontextmanager
async def candidates(home: Path) -> AsyncIterator[list[Candidate]]:
    """Run the tasks and both balancers."""
    (home / "www").mkdir()
    (home / "www" / "small").write_bytes(b"x" * 1024)
    with (home / "www" / "big").open("wb") as big:
        big.truncate(BULK_BYTES)
    for path in (home, home / "www"):
        path.chmod(0o755)
    ports = [free_port() for _ in range(BACKENDS)]
    listen = " ".join(f"listen {HOST}:{port} backlog=4096;" for port in ports)
    (home / "nginx.conf").write_text(NGINX.format(home=home, listen=listen))
    servers = "\n".join(f"  server s{port} {HOST}:{port}" for port in ports)
    peer_port, stream_port, own_port, http_port = (free_port() for _ in range(4))
    servers_of_nginx = " ".join(f"server {HOST}:{port};" for port in ports)
    stream = NGINX_STREAM.format(
        module=NGINX_STREAM_MODULE, home=home, host=HOST, port=stream_port, servers=servers_of_nginx
    )
    (home / "stream.conf").write_text(stream)
    (home / "haproxy.cfg").write_text(HAPROXY.format(host=HOST, port=peer_port, servers=servers))
    with ExitStack() as stack:
        stack.enter_context(process("nginx", "-c", str(home / "nginx.conf")))
        haproxy = stack.enter_context(process("haproxy", "-db", "-q", "-f", str(home / "haproxy.cfg")))
        rivals = [Candidate(name="haproxy tcp", pid=haproxy.pid, port=peer_port)]
        if NGINX_STREAM_MODULE.exists():
            nginx = stack.enter_context(process("nginx", "-c", str(home / "stream.conf")))
            rivals.append(Candidate(name="nginx stream", pid=nginx.pid, port=stream_port))
        (home / "http").mkdir()
        async with plane(home) as running, plane(home / "http") as http:
            tasks = [backend(f"t{port}", port) for port in ports]
            await running.show(route(own_port, *tasks))
            await http.show(route(http_port, *tasks, ingress=IngressConfig(http=HttpConfig())))
            found = [
                Candidate(name="swarmbus", pid=running.pids[0], port=own_port),
                *rivals,
                Candidate(name="swarmbus http", pid=http.pids[0], port=http_port),
            ]
            for port in (*ports, *(candidate.port for candidate in found)):
                await reachable(port)
            yield found


async def main(rounds: int) -> None:
    """Print the figures."""
    with tempfile.TemporaryDirectory(dir=MEMORY) as directory:
        async with candidates(Path(directory)) as found:
            figures: dict[str, dict[str, list[float]]] = {candidate.name: {} for candidate in found}
            for candidate in found:
                figures[candidate.name]["memory idle, MiB"] = [pss_bytes(candidate.pid) / 2**20]
                figures[candidate.name]["KiB per idle connection"] = [await asyncio.to_thread(idle_kib, candidate)]
            for _ in range(rounds):
                for candidate in found:
                    for name, value in (await one_round(candidate)).items():
                        figures[candidate.name].setdefault(name, []).append(value)
    show(figures)


def show(figures: dict[str, dict[str, list[float]]]) -> None:
    """Print the medians side by side."""
    names = list(figures)
    sys.stdout.write(f"{'':32}" + "".join(f"{name:>14}" for name in names) + "\n")
    for row in figures[names[0]]:
        values = [statistics.median(figures[name][row]) for name in names]
        sys.stdout.write(f"{row:32}" + "".join(f"{value:14.2f}" for value in values) + "\n")


if __name__ == "__main__":
    for tool in ("wrk", "nginx", "haproxy"):
        assert shutil.which(tool), f"{tool} is not installed"
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    assert hard > 3 * IDLE_CONNECTIONS, f"this needs more than {3 * IDLE_CONNECTIONS} open files"
    asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else ROUNDS))
