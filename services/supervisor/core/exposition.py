"""The text in which Prometheus reads the metrics of all of a node's processes (exposition format 0.0.4).

Each family is told once, whoever measures it; a sample says in ``process`` whose it is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from services.kit.messages.supervise import MetricFamily, MetricSample

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_WHOLE_NODE = frozenset({"swarm_node_info", "swarm_node_manager"})
_MANAGER = "swarm_manager_"


def exposition(reports: Mapping[str, Sequence[MetricFamily]]) -> str:
    """Return the text for what processes measure, by process."""
    by_name: dict[str, list[tuple[str, MetricFamily]]] = {}
    for process in sorted(reports):
        for family in reports[process]:
            by_name.setdefault(family.name, []).append((process, family))
    return "".join(f"{line}\n" for name in by_name for line in _lines(by_name[name]))


def _lines(told: Sequence[tuple[str, MetricFamily]]) -> Iterator[str]:
    first = told[0][1]
    yield f"# HELP {first.name} {first.text}."
    yield f"# TYPE {first.name} {first.kind}"
    for process, family in told:
        for sample in family.samples:
            yield _line(process, family, sample)


def _line(process: str, family: MetricFamily, sample: MetricSample) -> str:
    labels = dict(zip(family.labels, sample.labels, strict=True))
    if not (family.name.startswith(_MANAGER) or family.name in _WHOLE_NODE):  # SwarmKit's have no such label
        labels = {"process": process, **labels}
    if sample.bound:
        labels["le"] = sample.bound
    inside = ",".join(f'{key}="{_escaped(value)}"' for key, value in labels.items())
    name = f"{family.name}{sample.suffix}"
    value = int(sample.value) if sample.value == int(sample.value) else sample.value
    return f"{name}{{{inside}}} {value}" if inside else f"{name} {value}"


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
