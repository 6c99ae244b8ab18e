"""A swarm's backup, made and restored with the command by real nodes."""

from __future__ import annotations

import urllib.error
import urllib.request
from pathlib import Path

import pytest

from tests.support.ports import free_remote_api
from tests.support.swarm import Swarm, SwarmNode, run_swarmctl, wait_until

pytestmark = [pytest.mark.process, pytest.mark.timeout(120)]
SERVER = (
    "import http.server, os, sys\n"
    "class H(http.server.BaseHTTPRequestHandler):\n"
    "    def do_GET(self):\n"
    "        self.send_response(200); self.end_headers(); self.wfile.write(open(os.environ['SWARMBUS_SECRETS_DIR'] + '/key', 'rb').read())\n"
    "http.server.HTTPServer(('127.0.0.1', int(sys.argv[1])), H).serve_forever()\n"
)


def swarmctl(node: SwarmNode, *words: str) -> str:
    done = run_swarmctl("--socket", node.control_socket, *words)
    assert done.returncode == 0, done.stderr
    return done.stdout


def answer(port: str) -> bytes:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}", timeout=2) as reply:
            body: bytes = reply.read()
    except (urllib.error.URLError, OSError):
        return b""
    return body


def test_what_ran_in_a_lost_swarm_runs_in_a_fresh_one(tmp_path: Path) -> None:
    file, data, trace = tmp_path / "swarm.backup", tmp_path / "secret", tmp_path / "runs"
    data.write_text("hush hush")
    words = tmp_path / "words"
    words.write_text("correct horse\n")
    passphrase = ("--passphrase-file", str(words))
    port = free_remote_api().rpartition(":")[2]
    with Swarm(tmp_path / "a") as swarm:
        first = swarm.start("n1")
        swarmctl(first, "secret", "create", "key", str(data))
        web = ("python3", "-c", SERVER, "{{.Task.Port}}")
        service = ("--name", "web", "--secret", "key", "--publish", f"{port}:80", "--driver", "process", "--", *web)
        swarmctl(first, "service", "create", *service)
        once = ("python3", "-c", f"open({str(trace)!r}, 'a').write('ran')")
        job = ("--name", "once", "--mode", "replicated-job", "--restart-condition", "none", "--driver", "process")
        swarmctl(first, "service", "create", *job, "--", *once)
        wait_until(lambda: answer(port) == b"hush hush", "the service answers")
        wait_until(trace.exists, "the job ran")
        wait_until(lambda: "Complete" in swarmctl(first, "service", "ps", "once"), "the swarm knows that the job ran")
        swarmctl(first, "node", "update", "--label-add", "disk=ssd", "n1")
        swarmctl(first, "backup", "create", *passphrase, str(file))
    assert "whole and readable" in run_swarmctl("backup", "verify", *passphrase, str(file)).stdout
    with Swarm(tmp_path / "b") as swarm:
        fresh = swarm.start("n1")
        assert "restored" in swarmctl(fresh, "backup", "restore", *passphrase, str(file))
        wait_until(lambda: answer(port) == b"hush hush", "the service answers in the fresh swarm")
        assert "disk=ssd" in swarmctl(fresh, "node", "inspect", "n1")
        assert "Complete" in swarmctl(fresh, "service", "ps", "once")
        assert trace.read_text() == "ran", "the job ran again"
