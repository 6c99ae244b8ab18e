"""The demo's story, told while it happens: four nodes, a service, requests through every gateway, the leader killed, everything gone."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path

from msgspec.structs import replace

from services.cli.demo.load import Load
from services.cli.demo.nodes import (
    CLOCK,
    DemoFailed,
    DemoNode,
    free_port,
    free_single_port,
    processes_of,
    send,
)
from services.client.blocking import BlockingClient
from services.kit.errors import SwarmError
from services.kit.model.specs import ServiceSpec

ADDRESSES = ("127.0.0.1", "127.0.0.2", "127.0.0.3", "127.0.0.4")
STACK = Path(__file__).parents[3] / "examples" / "web.yaml"
LOAD_BEFORE = 200
LOAD_AFTER = 400
WAIT_S = 60.0
SERVICE = "web_web"


def main() -> int:
    """Run the demo; 0 when every step did what it should."""
    directory = Path(tempfile.mkdtemp(prefix="swarmbus-demo-"))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    demo = Demo(directory)
    try:
        demo.run()
    except (DemoFailed, SwarmError) as error:
        say(f"\nThe demo failed: {error}\nLogs are kept in {directory}")
        demo.clean_up()
        return 1
    except BaseException:
        demo.clean_up()
        shutil.rmtree(directory, ignore_errors=True)
        raise
    left = demo.clean_up()
    shutil.rmtree(directory, ignore_errors=True)
    say("  nothing is left behind" if not left else f"  had to be ended by force: {left}")
    return 1 if left or demo.failed_requests else 0


class Demo:
    """The four nodes and what was seen of them."""

    def __init__(self, directory: Path) -> None:
        port = free_port(ADDRESSES)
        self.nodes = [DemoNode(f"n{number}", directory, address, port) for number, address in enumerate(ADDRESSES, 1)]
        self.published = free_single_port(ADDRESSES, 8080)
        self.failed_requests = 0
        self._directory = directory

    def run(self) -> None:
        """Tell the story."""
        self._start()
        self._deploy()
        load = Load(ADDRESSES, self.published)
        load.start()
        until(lambda: load.answered() >= LOAD_BEFORE, "requests are answered")
        killed, gap_s = self._kill_the_leader(load)
        mark = load.answered()
        until(lambda: load.answered() >= mark + LOAD_AFTER, "requests go on being answered")
        load.stop()
        self._bring_back(killed)
        self._show(load, killed, gap_s)
        self._remove()

    def clean_up(self) -> list[str]:
        """Stop every node and end what is left; returns what had to be ended by force."""
        stoppers = [threading.Thread(target=node.stop, name=f"stop {node.name}") for node in self.nodes]
        for stopper in stoppers:
            stopper.start()
        for stopper in stoppers:
            stopper.join()
        left = []
        for pid in processes_of(self._directory):
            left.append(str(pid))
            send(pid, signal.SIGKILL)
        return left

    def _start(self) -> None:
        say("Starting four nodes on this machine, each with processes of its own")
        first, *others = self.nodes
        first.start()
        first.wait_ready()
        say(f"  {first.name} {first.address:<10} made a cluster of itself, ready after {first.ready_s:.2f} s")
        with BlockingClient(first.control_socket) as swarm:
            tokens = swarm.clusters.get().root_ca.join_tokens
        for node in others:
            token = tokens.worker if node is others[-1] else tokens.manager
            node.start("--join-addr", first.remote_api, "--join-token", token)
        for node in others:
            node.wait_ready()
            role = "worker" if node is others[-1] else "manager"
            say(f"  {node.name} {node.address:<10} joined as {role}, ready after {node.ready_s:.2f} s")

    def _deploy(self) -> None:
        say(f"\nDeploying {STACK.name}: three tasks behind port {self.published} of every node")
        stack = self._directory / STACK.name
        stack.write_text(STACK.read_text().replace("8080:", f"{self.published}:"))
        command = (sys.executable, "-P", "-m", "services.cli.swarmctl", "-s", self.nodes[0].control_socket)
        done = subprocess.run(
            [*command, "stack", "deploy", "-c", str(stack), "web"], capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            raise DemoFailed(f"swarmctl stack deploy: {done.stderr.strip() or done.stdout.strip()}")
        with BlockingClient(self.nodes[0].control_socket) as swarm:
            progress = swarm.services.wait(SERVICE, timeout_s=WAIT_S)
        say(f"  {progress.done} of {progress.desired} tasks are running")

    def _kill_the_leader(self, load: Load) -> tuple[DemoNode, float]:
        leader = self._leader()
        survivor = next(node for node in self.nodes[:3] if node is not leader)
        say(f"\nKilling the leader, {leader.name}, with all its processes and tasks, while requests run")
        load.leave_out(leader.address)
        with BlockingClient(survivor.control_socket) as swarm:
            leader.kill()
            began = CLOCK.monotonic()
            swarm.services.update(SERVICE, _relabelled)
            gap_s = CLOCK.monotonic() - began
            say(f"  the next write through {survivor.name} was acknowledged after {gap_s:.2f} s")
            swarm.services.wait(SERVICE, timeout_s=WAIT_S)
        return leader, gap_s

    def _bring_back(self, node: DemoNode) -> None:
        node.start()
        node.wait_ready()
        say(f"  {node.name} came back as the node it was, ready after {node.ready_s:.2f} s")

    def _show(self, load: Load, killed: DemoNode, gap_s: float) -> None:
        answered = load.answered()
        self.failed_requests = sum(tally.failed for tally in load.tallies.values())
        say("\nWhat happened\n")
        say(f"  {'gateway of':<12} {'answered':>9} {'failed':>7} {'slowest':>9}")
        for node in self.nodes:
            tally = load.tallies[node.address]
            note = "  (killed)" if node is killed else ""
            say(f"  {node.name:<12} {tally.answered:>9} {tally.failed:>7} {tally.slowest_s:>7.2f} s{note}")
            for reason, count in tally.reasons.items():
                say(f"  {'':<12} {count} × {reason}")
        say(f"\n  {answered} requests answered, {self.failed_requests} failed; {gap_s:.2f} s without a leader\n")

    def _remove(self) -> None:
        with BlockingClient(self._leader().control_socket) as swarm:
            swarm.services.remove(SERVICE)
            until(lambda: not swarm.tasks.list(), "the tasks are gone")
        say("Service removed, stopping the nodes")

    def _leader(self) -> DemoNode:
        found: list[DemoNode] = []

        def look() -> bool:
            for node in self.nodes[:3]:
                if node.running:
                    found.extend(self._led_by(node))
                if found:
                    return True
            return False

        until(look, "there is a leader")
        return found[0]

    def _led_by(self, asked: DemoNode) -> list[DemoNode]:
        try:
            with BlockingClient(asked.control_socket) as swarm:
                leaders = {
                    node.description.hostname
                    for node in swarm.nodes.list()
                    if node.manager_status is not None and node.manager_status.leader
                }
        except SwarmError:
            return []
        return [node for node in self.nodes if node.name in leaders]


def _relabelled(spec: ServiceSpec) -> ServiceSpec:
    labels = {**spec.annotations.labels, "demo.written": "while the leader was gone"}
    return replace(spec, annotations=replace(spec.annotations, labels=labels))


def until(condition: Callable[[], object], what: str) -> None:
    """Wait for a condition; ends the demo after a minute."""
    end = CLOCK.monotonic() + WAIT_S
    tick = threading.Event()
    while not condition():
        if CLOCK.monotonic() > end:
            raise DemoFailed(f"it did not come true within {WAIT_S:g} s that {what}")
        tick.wait(0.05)


def say(text: str) -> None:
    """Show a line at once."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
