"""Settings of the raft process."""

from __future__ import annotations

from services.kit.bus.ports import HostPort, node_ports
from services.kit.lifecycle.settings import Positive, PositiveInt, ProcessSettings


class RaftSettings(ProcessSettings, frozen=True, kw_only=True):
    """What the raft process is told by its supervisor."""

    listen_remote_api: str = "127.0.0.1:4242"
    """``host:port`` of the node's remote API; raft peers are two ports above it."""
    heartbeat_interval_s: Positive = 0.06
    """Between two heartbeats of the leader."""
    election_timeout_s: Positive = 0.25
    """Silence of the leader after which a member asks for an election; drawn between this and twice this."""
    quorum_timeout_s: Positive = 1.0
    """A leader that hears no majority for this long steps down."""
    force_new_cluster: bool = False
    """Make this member the only one, keeping its log; done once, until the process was started without it."""
    snapshot_log_bytes: PositiveInt = 64 << 20
    """A snapshot is taken when the log holds this much, even before the cluster's interval is over."""
    join_timeout_s: Positive = 20.0
    """Longest time for a joiner to catch up before it is told to ask again."""

    @property
    def listen(self) -> HostPort:
        """Where raft peers connect."""
        return node_ports(self.listen_remote_api).raft

    @property
    def heartbeat_s(self) -> float:
        """The heartbeat interval, short enough for the election timeout: the library wants three in one."""
        return min(self.heartbeat_interval_s, self.election_timeout_s / 3.1)
