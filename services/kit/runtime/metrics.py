"""What a process measures of itself: counters, histograms and gauges, told to the supervisor, which serves them for Prometheus.

Every metric of the product is declared here, and ``ALL`` is the whole list; SwarmKit's names where it has one. Code adds to them where
something happens. What must stay true: adding is cheap and never fails; the number of series is bounded, whatever labels are given.
"""

from __future__ import annotations

import os
import resource
from abc import ABC, abstractmethod
from bisect import bisect_left
from collections.abc import Iterator, Mapping

from services.kit.messages.supervise import MetricFamily, MetricSample

BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
SERIES_MAX = 1000
"""Label values of one metric; what comes beyond is counted under ``other``."""
_OTHER = "other"

Labels = tuple[str, ...]


class _Metric(ABC):
    """What all kinds have in common. ``labels`` are names; values are given in the same order."""

    kind = "gauge"

    def __init__(self, name: str, text: str, *labels: str) -> None:
        self.name = name
        self.text = text
        self.labels = labels

    def family(self) -> MetricFamily:
        """Return what there is to tell now."""
        samples = tuple(self._samples())
        return MetricFamily(name=self.name, text=self.text, kind=self.kind, labels=self.labels, samples=samples)

    @abstractmethod
    def _samples(self) -> Iterator[MetricSample]:
        """Yield what there is to tell."""

    def _bounded(self, values: Labels, known: Mapping[Labels, object]) -> Labels:
        assert len(values) == len(self.labels), f"{self.name} has the labels {self.labels}"
        return values if values in known or len(known) < SERIES_MAX else (_OTHER,) * len(values)


class Counter(_Metric):
    """Only grows."""

    kind = "counter"

    def __init__(self, name: str, text: str, *labels: str) -> None:
        super().__init__(name, text, *labels)
        self._values: dict[Labels, float] = {}

    def add(self, *labels: str, by: float = 1.0) -> None:
        """Count something."""
        key = self._bounded(labels, self._values)
        self._values[key] = self._values.get(key, 0.0) + by

    def _samples(self) -> Iterator[MetricSample]:
        for labels, value in self._values.items():
            yield MetricSample(labels=labels, value=value)


class Gauge(_Metric):
    """A level."""

    def __init__(self, name: str, text: str, *labels: str) -> None:
        super().__init__(name, text, *labels)
        self._values: dict[Labels, float] = {}

    def set(self, value: float, *labels: str) -> None:
        """Say where it stands."""
        self._values[self._bounded(labels, self._values)] = value

    def replace(self, values: Mapping[Labels, float]) -> None:
        """Say where all of them stand; what is not named is gone."""
        self._values = dict(values)

    def _samples(self) -> Iterator[MetricSample]:
        for labels, value in self._values.items():
            yield MetricSample(labels=labels, value=value)


class Histogram(_Metric):
    """How long things take, in seconds."""

    kind = "histogram"

    def __init__(self, name: str, text: str, *labels: str) -> None:
        super().__init__(name, text, *labels)
        self._counts: dict[Labels, list[int]] = {}
        self._sums: dict[Labels, float] = {}

    def observe(self, seconds: float, *labels: str) -> None:
        """Take one duration."""
        key = self._bounded(labels, self._counts)
        counts = self._counts.get(key)
        if counts is None:
            counts = self._counts[key] = [0] * (len(BUCKETS_S) + 1)
        counts[bisect_left(BUCKETS_S, seconds)] += 1
        self._sums[key] = self._sums.get(key, 0.0) + seconds

    def _samples(self) -> Iterator[MetricSample]:
        for labels, counts in self._counts.items():
            below = 0
            for bound, count in zip((*map(str, BUCKETS_S), "+Inf"), counts, strict=True):
                below += count
                yield MetricSample(suffix="_bucket", labels=labels, value=below, bound=bound)
            yield MetricSample(suffix="_sum", labels=labels, value=self._sums[labels])
            yield MetricSample(suffix="_count", labels=labels, value=below)


class _OwnProcess(_Metric):
    """A figure of the process that is read when it is asked for."""

    def __init__(self, name: str, text: str, kind: str) -> None:
        super().__init__(name, text)
        self.kind = kind

    def _samples(self) -> Iterator[MetricSample]:
        yield MetricSample(value=_own_figures()[self.name])


NODE_INFO = Gauge("swarm_node_info", "This node", "swarm_id", "node_id")
NODE_MANAGER = Gauge("swarm_node_manager", "Whether this node is a manager")
MANAGER_LEADER = Gauge("swarm_manager_leader", "Whether this manager leads")
MANAGER_NODES = Gauge("swarm_manager_nodes", "Nodes by state", "state")
MANAGER_TASKS = Gauge("swarm_manager_tasks_total", "Tasks by observed state", "state")
MANAGER_SERVICES = Gauge("swarm_manager_services_total", "Services")
MANAGER_NETWORKS = Gauge("swarm_manager_networks_total", "Networks")
MANAGER_SECRETS = Gauge("swarm_manager_secrets_total", "Secrets, with all of their versions")
MANAGER_CONFIGS = Gauge("swarm_manager_configs_total", "Configs, with all of their versions")
SCHEDULING_DELAY = Histogram("swarm_dispatcher_scheduling_delay_seconds", "From a task's creation until it runs")
RAFT_TRANSACTION = Histogram("swarm_raft_transaction_latency_seconds", "From a proposal until it is applied")
RAFT_SNAPSHOT = Histogram("swarm_raft_snapshot_latency_seconds", "Writing a snapshot")
STORE_WRITE = Histogram("swarm_store_write_tx_latency_seconds", "Transactions, from the process that wants them")
STORE_READ = Histogram("swarm_store_read_tx_latency_seconds", "Waiting until a read may look at the store")
STORE_BATCH = Histogram("swarm_store_batch_latency_seconds", "Messages of several transactions")
CALLS = Histogram("swarmbus_call_seconds", "Calls answered, by method and outcome", "method", "code")
RAFT_TERM = Gauge("swarmbus_raft_term", "Raft's term as this member knows it")
RAFT_APPLIED = Gauge("swarmbus_raft_applied_index", "Index of the last entry that this member has applied")
CHILD_RESTARTS = Gauge("swarmbus_process_restarts", "How often a process of the node was started again", "child")
CERTIFICATE_END = Gauge(
    "swarmbus_node_certificate_expiry_seconds", "When this node's certificate runs out, in seconds since the epoch"
)

ALL: tuple[_Metric, ...] = (
    NODE_INFO,
    NODE_MANAGER,
    MANAGER_LEADER,
    MANAGER_NODES,
    MANAGER_TASKS,
    MANAGER_SERVICES,
    MANAGER_NETWORKS,
    MANAGER_SECRETS,
    MANAGER_CONFIGS,
    SCHEDULING_DELAY,
    RAFT_TRANSACTION,
    RAFT_SNAPSHOT,
    STORE_WRITE,
    STORE_READ,
    STORE_BATCH,
    CALLS,
    RAFT_TERM,
    RAFT_APPLIED,
    CHILD_RESTARTS,
    CERTIFICATE_END,
    _OwnProcess("process_cpu_seconds_total", "Processor time spent", "counter"),
    _OwnProcess("process_resident_memory_bytes", "Memory held", "gauge"),
    _OwnProcess("process_open_fds", "Open file descriptors", "gauge"),
)


def families() -> tuple[MetricFamily, ...]:
    """Return every metric that this process has something to tell of."""
    return tuple(family for metric in ALL if (family := metric.family()).samples)


def _own_figures() -> dict[str, float]:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    with open("/proc/self/statm", encoding="ascii") as file:
        pages = int(file.read().split()[1])
    return {
        "process_cpu_seconds_total": round(usage.ru_utime + usage.ru_stime, 3),
        "process_resident_memory_bytes": float(pages * os.sysconf("SC_PAGESIZE")),
        "process_open_fds": float(len(os.listdir("/proc/self/fd"))),
    }
