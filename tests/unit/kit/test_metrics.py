"""Metrics: what is added is told, bounded in number, and in the words that Prometheus reads."""

from __future__ import annotations

import re
from collections import Counter as Count

from services.kit.messages.supervise import MetricFamily, MetricSample
from services.kit.runtime import metrics
from services.kit.runtime.metrics import SERIES_MAX, Counter, Gauge, Histogram
from services.supervisor.core.exposition import exposition

SAMPLE = re.compile(r'^[a-z_]+(\{([a-z_]+="([^"\\\n]|\\.)*",?)+\})? -?[0-9.e+-]+$')


def test_a_histogram_counts_what_is_at_or_below_each_bound() -> None:
    histogram = Histogram("h_seconds", "H")
    for seconds in (0.001, 0.3, 99.0):
        histogram.observe(seconds)
    samples = histogram.family().samples
    buckets = {each.bound: each.value for each in samples if each.suffix == "_bucket"}
    assert (buckets["0.001"], buckets["0.25"], buckets["0.5"], buckets["10.0"], buckets["+Inf"]) == (1, 1, 2, 2, 3)
    assert next(each.value for each in samples if each.suffix == "_count") == 3
    assert next(each.value for each in samples if each.suffix == "_sum") == 99.301


def test_labels_without_end_do_not_make_series_without_end() -> None:
    counter = Counter("c_total", "C", "who")
    for number in range(SERIES_MAX + 50):
        counter.add(str(number))
    family = counter.family()
    assert len(family.samples) == SERIES_MAX + 1
    assert sum(each.value for each in family.samples) == SERIES_MAX + 50


def test_a_gauge_forgets_what_is_not_there_any_more() -> None:
    gauge = Gauge("g", "G", "which")
    gauge.set(1, "a")
    gauge.replace({("b",): 2.0})
    assert [(each.labels, each.value) for each in gauge.family().samples] == [(("b",), 2.0)]


def test_every_metric_has_a_name_of_its_own_and_swarmkits_are_among_them() -> None:
    names = Count(metric.name for metric in metrics.ALL)
    assert max(names.values()) == 1
    assert {
        "swarm_node_info",
        "swarm_node_manager",
        "swarm_manager_leader",
        "swarm_manager_nodes",
        "swarm_manager_tasks_total",
        "swarm_manager_services_total",
        "swarm_manager_networks_total",
        "swarm_manager_secrets_total",
        "swarm_manager_configs_total",
        "swarm_dispatcher_scheduling_delay_seconds",
        "swarm_raft_transaction_latency_seconds",
        "swarm_raft_snapshot_latency_seconds",
        "swarm_store_write_tx_latency_seconds",
        "swarm_store_read_tx_latency_seconds",
        "swarm_store_batch_latency_seconds",
    } <= set(names)


def test_a_family_of_several_processes_is_told_once() -> None:
    def family(value: float) -> MetricFamily:
        return MetricFamily(name="process_open_fds", text="Open", kind="gauge", samples=(MetricSample(value=value),))

    text = exposition({"raft": (family(3),), "ca": (family(2.5),)})
    assert text.splitlines() == [
        "# HELP process_open_fds Open.",
        "# TYPE process_open_fds gauge",
        'process_open_fds{process="ca"} 2.5',
        'process_open_fds{process="raft"} 3',
    ]


def test_swarmkits_own_metrics_have_swarmkits_labels() -> None:
    samples = (MetricSample(value=2, labels=("ready",)),)
    family = MetricFamily(name="swarm_manager_nodes", text="N", kind="gauge", labels=("state",), samples=samples)
    assert 'swarm_manager_nodes{state="ready"} 2' in exposition({"dispatcher": (family,)})


def test_labels_are_written_so_that_nothing_can_be_slipped_in() -> None:
    samples = (MetricSample(value=1, labels=('a"} 9\nb\\',)),)
    family = MetricFamily(name="m", text="M", kind="gauge", labels=("x",), samples=samples)
    last = exposition({"p": (family,)}).splitlines()[-1]
    assert SAMPLE.match(last), last


def test_a_process_tells_its_own_figures() -> None:
    figures = {family.name: family.samples[0].value for family in metrics.families()}
    assert figures["process_resident_memory_bytes"] > 1 << 20
    assert figures["process_open_fds"] >= 3
