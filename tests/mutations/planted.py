"""The planted bugs. Each changes one place of a file to a mistake that somebody could make; ``python -m tests.mutations`` looks for survivors.

``before`` stands exactly once in its file. A change of the code that makes one of them go is answered by planting another.
"""

from __future__ import annotations

from dataclasses import dataclass

RAFT = ("tests/unit/raft", "tests/property/test_raft_log.py", "tests/sim/test_raft_group.py")
STATE = ("tests/unit/kit/test_state.py", "tests/unit/store", "tests/property/test_state.py")
DISPATCHER = ("tests/unit/dispatcher",)
AGENT = ("tests/unit/agent", "tests/shell/test_agent.py")
GATEWAY = ("tests/unit/gateway", "tests/property/test_route_book.py", "tests/shell/test_gateway.py")
BUS = ("tests/property/test_bus.py", "tests/shell/test_bus_contract.py", "tests/unit/kit")


@dataclass(frozen=True, slots=True, kw_only=True)
class Planted:
    """One bug."""

    what: str
    """What is wrong, in a few words."""
    file: str
    before: str
    after: str
    tests: tuple[str, ...]
    """Where it should be found first; the simulator looks for what these let through."""


def _raft(file: str, what: str, before: str, after: str) -> Planted:
    return Planted(what=what, file=f"services/raft/{file}", before=before, after=after, tests=RAFT)


def _state(file: str, what: str, before: str, after: str) -> Planted:
    return Planted(what=what, file=f"services/kit/{file}", before=before, after=after, tests=STATE)


def _dispatcher(file: str, what: str, before: str, after: str) -> Planted:
    return Planted(what=what, file=f"services/dispatcher/core/{file}", before=before, after=after, tests=DISPATCHER)


def _agent(file: str, what: str, before: str, after: str) -> Planted:
    return Planted(what=what, file=f"services/agent/core/{file}", before=before, after=after, tests=AGENT)


def _gateway(file: str, what: str, before: str, after: str) -> Planted:
    return Planted(what=what, file=f"services/gateway/core/{file}", before=before, after=after, tests=GATEWAY)


def _bus(file: str, what: str, before: str, after: str) -> Planted:
    return Planted(what=what, file=f"services/kit/{file}", before=before, after=after, tests=BUS)


PLANTED = (
    # -- raft
    _raft(
        "core/members.py",
        "half of the members are a majority",
        "    return members // 2 + 1",
        "    return (members + 1) // 2",
    ),
    _raft("core/elections.py", "a voter is counted again and again", "        return first\n", "        return True\n"),
    _raft(
        "core/outbox.py",
        "acknowledgements do not wait for the disk",
        "        if isinstance(message, Ack) and message.success:\n",
        "        if isinstance(message, Ack) and message.success and self._post(peer, message):\n            return\n"
        "        if isinstance(message, Ack) and message.success:\n",
    ),
    _raft(
        "core/reads.py",
        "a read is answered without the members",
        "            elif self._confirmed(round_, members) and leading.commit_term == leading.term:",
        "            elif leading.commit_term == leading.term:",
    ),
    _raft(
        "core/reads.py",
        "a read is answered before the leader's own term is committed",
        "            elif self._confirmed(round_, members) and leading.commit_term == leading.term:",
        "            elif self._confirmed(round_, members):",
    ),
    _raft(
        "core/reads.py",
        "a late answer counts for a later round",
        "            if round_.number <= number and round_.term == term:",
        "            if round_.term == term:",
    ),
    _raft(
        "shell/log.py",
        "the log is not synced",
        "            self._disk.sync(self._descriptor)\n        self._segments[-1]",
        "        self._segments[-1]",
    ),
    _raft(
        "shell/log.py",
        "what is read back after a kill is not settled",
        "            self._disk.settle(path)",
        "            pass",
    ),
    _raft(
        "shell/log.py",
        "a new segment's name is not made durable",
        "        self._disk.replace(temporary, path)\n        self._disk.sync_directory(self._directory)\n",
        "        self._disk.replace(temporary, path)\n",
    ),
    _raft(
        "shell/log.py",
        "a cut is forgotten on disk",
        "            self._buffer.append(records.cut(index))\n",
        "",
    ),
    _raft(
        "shell/log.py",
        "the vote is forgotten on disk",
        "            self._buffer.append(records.hard_state(term, vote))\n",
        "",
    ),
    _raft(
        "shell/recovery.py",
        "names left by a killed process are not made durable",
        "        disk.sync_directory(place)",
        "        pass",
    ),
    _raft(
        "shell/intake.py",
        "an old leader is listened to",
        "        if append.term < seat.term:\n",
        "        if append.term < seat.term - 1:\n",
    ),
    _raft(
        "shell/intake.py",
        "entries that were not compared are acknowledged",
        '        if message["success"] and self._verified is not None:\n',
        '        if message["success"] and self._verified is None:\n',
    ),
    _raft(
        "shell/proposing.py",
        "whether a lost proposal had its effect is told wrongly",
        "done(self._seat.not_leader(maybe_executed=key not in queued))",
        "done(self._seat.not_leader(maybe_executed=False))",
    ),
    _raft(
        "shell/proposing.py",
        "the members change twice at a time",
        "        if pending or not seat.ready:\n",
        "        if not seat.ready:\n",
    ),
    _raft(
        "core/machine.py",
        "a watch misses the step of a transaction",
        "            if self.state.version != before:\n",
        "            if self.state.version != before and len(changes) > 1:\n",
    ),
    # -- the state
    _state(
        "state/state.py",
        "a refused transaction is not undone in its order",
        "            for table, object_id, old in reversed(undo):\n",
        "            for table, object_id, old in undo[:1]:\n",
    ),
    _state(
        "state/state.py",
        "a repeated transaction takes effect again",
        "        if known is not None:\n            return known, ()\n",
        "",
    ),
    _state(
        "state/state.py",
        "a moved task stays in the index of its old node",
        "                if thing.node_id is not None:\n                    _forget(self._by_node, thing.node_id, thing.id)",
        "                if thing.node_id is not None and thing.status.state.terminal:\n"
        "                    _forget(self._by_node, thing.node_id, thing.id)",
    ),
    _state(
        "state/checks.py",
        "a write based on an old version is taken",
        "or op.base == ANY_VERSION or old is None or op.base == old.meta.version:",
        "or op.base == ANY_VERSION or old is None or op.base <= old.meta.version:",
    ),
    _state(
        "state/checks.py",
        "observed state may go back",
        "    if new.status.state < old.status.state:\n",
        "    if new.status.state < old.status.state and new.status.state.terminal:\n",
    ),
    _state(
        "state/checks.py",
        "a spec version goes while tasks refer to it",
        "        if task.spec_version == spec.version:\n",
        "        if task.spec_version == spec.version and task.node_id is None:\n",
    ),
    _state(
        "state/sessions.py",
        "the newest answer is forgotten instead of the oldest",
        "            del self.results[oldest]\n            self.begins_at",
        "            del self.results[next(reversed(self.results))]\n            self.begins_at",
    ),
    _state(
        "state/sessions.py",
        "what was answered long ago is applied again",
        "        return session is not None and sequence < session.begins_at\n",
        "        return session is None and sequence < 0\n",
    ),
    _state(
        "store/replica.py",
        "a full state keeps what is gone",
        "    return removes + writes",
        "    return writes",
    ),
    # -- dispatcher
    _dispatcher(
        "loops/replicated.py",
        "one task too many",
        "        if len(live) < replicas:\n",
        "        if len(live) <= replicas:\n",
    ),
    _dispatcher(
        "loops/replicated.py",
        "scaling down keeps the worst",
        "    by_merit = sorted(slots, key=lambda key: (not running(key), key))",
        "    by_merit = sorted(slots, key=lambda key: (running(key), key))",
    ),
    _dispatcher(
        "loops/update.py",
        "an update rolls all slots at once",
        "        room = len(progress.todo) if config.parallelism == 0 else config.parallelism - at_work",
        "        room = len(progress.todo)",
    ),
    _dispatcher(
        "loops/update.py",
        "slots on their way do not count once the service was scaled",
        "                progress.under_way += 1\n",
        "                progress.under_way += best in mine\n",
    ),
    _dispatcher(
        "loops/update.py",
        "early failures are not noticed",
        "    return ended_badly and task.status.ran_s <= config.monitor_s",
        "    return ended_badly and task.status.ran_s < 0",
    ),
    _dispatcher(
        "loops/restart.py",
        "a replacement starts beside the task it replaces",
        "        return since + delay_s + (STOP_WAIT_S if stopping else 0.0)",
        "        return since + delay_s",
    ),
    _dispatcher(
        "loops/restart.py",
        "the restart delay is not kept",
        "        return since + delay_s + (STOP_WAIT_S if stopping else 0.0)",
        "        return since + (STOP_WAIT_S if stopping else 0.0)",
    ),
    _dispatcher(
        "loops/reap.py",
        "a task goes while its node still runs it",
        "    if task.desired_state >= TaskState.REMOVE:\n        return is_over(task)\n",
        "    if task.desired_state >= TaskState.REMOVE:\n        return True\n",
    ),
    _dispatcher(
        "loops/reap.py",
        "history keeps the oldest",
        "        spare.sort(key=lambda task: (ended_at(task), task.id))",
        "        spare.sort(key=lambda task: (-ended_at(task), task.id))",
    ),
    _dispatcher(
        "statuses.py",
        "a node may report for another's task",
        "            if task.node_id != node:\n",
        "            if task.node_id is None:\n",
    ),
    _dispatcher(
        "statuses.py",
        "an older report replaces a newer one",
        "                if known is None or _is_news(known, update.status):\n",
        "                if known is None or known:\n",
    ),
    _dispatcher(
        "sessions.py",
        "any session will do",
        "        if not session or agent.session != session:\n",
        "        if not session:\n",
    ),
    _dispatcher(
        "sessions.py",
        "a silent node is never missed",
        '            agent.session = None\n            agent.expires_at = float("inf")\n            silent.append(node)',
        '            agent.session = None\n            agent.expires_at = float("inf")',
    ),
    _dispatcher(
        "assignments.py",
        "secrets go to nodes whose tasks need none of them",
        "secret_id for reference in container.secrets),",
        "secret_id for reference in container.secrets[1:]),",
    ),
    _dispatcher(
        "assignments.py",
        "a task that was taken away is not taken back",
        "        if old.id in self._sent:\n            self._changed[old.id] = None\n",
        "        if old.id in self._sent:\n            return False\n",
    ),
    _dispatcher(
        "draining.py",
        "a task is stopped before the gateways know",
        "            acknowledged = held.epoch is not None and held.epoch <= acting",
        "            acknowledged = held.epoch is not None",
    ),
    _dispatcher(
        "draining.py",
        "a gateway that never answers holds a task for ever",
        "            if not acknowledged and now < held.until:\n",
        "            if not acknowledged:\n",
    ),
    # -- agent
    _agent(
        "worker.py",
        "a gap in the assignments is not noticed",
        "        if not message.full and message.applies_to != self._follows:\n",
        "        if not message.full and self._follows is None:\n",
    ),
    _agent(
        "worker.py",
        "a full set removes nothing",
        "            removed |= self._tasks.keys() - {assigned.task.id for assigned in message.tasks}",
        "            removed |= set()",
    ),
    _agent(
        "worker.py",
        "secrets that are no longer needed stay",
        "            self._secrets.pop(secret_id, None)",
        "            self._secrets.get(secret_id)",
    ),
    _agent(
        "reports.py",
        "a report that was under way is lost with the session",
        "        self._waiting = {**self._in_flight, **self._waiting}",
        "        self._waiting = {**self._waiting}",
    ),
    _agent(
        "reports.py",
        "an older report goes out after a newer one",
        "        self._waiting = {**self._in_flight, **self._waiting}",
        "        self._waiting = {**self._waiting, **self._in_flight}",
    ),
    _agent(
        "session.py",
        "heartbeats come too late",
        "                    self._beat_at = now + period_s",
        "                    self._beat_at = now + 4 * period_s",
    ),
    # -- gateway
    _gateway(
        "rights.py",
        "anybody may speak for another",
        "        if peer.role != MANAGER or not forwarded:\n",
        "        if not forwarded:\n",
    ),
    _gateway(
        "rights.py",
        "a removed node is let in",
        "    if who.public_key in policy.revoked:\n",
        "    if who.public_key in policy.revoked and not who.role:\n",
    ),
    _gateway(
        "rights.py",
        "a node of another cluster is let in",
        "    if who.role and who.cluster_id != policy.me.cluster_id:\n",
        "    if who.role == MANAGER and who.cluster_id != policy.me.cluster_id:\n",
    ),
    _gateway(
        "rights.py",
        "a user's socket certifies the manager's own key",
        '    return Allowed(who=replace(policy.me, public_key=b""))',
        "    return Allowed(who=policy.me)",
    ),
    _gateway(
        "forwarding.py",
        "what may have run is run again",
        "    if error.details.maybe_executed and not may_repeat:\n",
        "    if error.details.maybe_executed and may_repeat:\n",
    ),
    _gateway(
        "forwarding.py",
        "a call is forwarded twice",
        "or origin in {Origin.NODE, Origin.MANAGER_GATEWAY}:",
        "or origin in {Origin.NODE}:",
    ),
    _gateway(
        "table.py",
        "a gap in the route table is not noticed",
        "        elif self.epoch is None or update.epoch != self.epoch + 1:\n",
        "        elif self.epoch is None or update.epoch < self.epoch:\n",
    ),
    # -- bus
    _bus(
        "bus/credit.py",
        "a stream's sender may ignore its credit",
        "        if self._held >= self._window:\n",
        "        if self._held >= 100 * self._window:\n",
    ),
    _bus(
        "bus/credit.py",
        "credit is not given back",
        "            self._give_back(self._consumed)\n",
        "",
    ),
)
"""Every planted bug; at least forty."""
