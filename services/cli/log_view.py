"""Prints log lines as they arrive: the line's own bytes, behind the name of the task and its node."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime

from services.cli.output import Output
from services.kit.messages.logs import LogBatch, LogLine
from services.kit.model.ids import NodeId, ServiceId
from services.kit.model.states import LogStream


class LogView:
    """Standard output of tasks goes to ours, their standard error to ours."""

    def __init__(
        self,
        output: Output,
        *,
        services: Mapping[ServiceId, str],
        nodes: Mapping[NodeId, str],
        timestamps: bool,
        raw: bool,
    ) -> None:
        self.incomplete = False
        """True once a node could not answer."""
        self._output = output
        self._services = services
        self._nodes = nodes
        self._timestamps = timestamps
        self._raw = raw
        self._width = 0

    def show(self, batch: LogBatch) -> None:
        """Print a batch."""
        for line in batch.lines:
            stream = self._output.err if line.stream is LogStream.STDERR else self._output.out
            stream.write(self._prefix(line) + line.data.decode(errors="replace") + "\n")
        self._output.out.flush()
        self._output.err.flush()
        for missing in batch.missing:
            self.incomplete = True
            self._output.error(f"no logs from {missing}", ["lines of its tasks are missing above"])

    def _prefix(self, line: LogLine) -> str:
        when = ""
        if self._timestamps:
            moment = datetime.fromtimestamp(line.timestamp, tz=UTC)
            when = moment.isoformat(timespec="milliseconds").replace("+00:00", "Z") + " "
        if self._raw:
            return when
        node = self._nodes.get(line.node_id, line.node_id)
        service = self._services.get(line.service_id, line.service_id)
        name = f"{service}.{line.slot or node}@{node}"
        self._width = max(self._width, len(name))
        return f"{when}{name:<{self._width}} | "
