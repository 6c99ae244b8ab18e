"""How far the download of an image is, from the lines that the Docker engine sends. Pure; used by the docker driver."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

TELL_EVERY_S = 1.0
MEGABYTE = 1_000_000
_DONE = frozenset({"Pull complete", "Already exists"})


@dataclass(slots=True)
class _Layer:
    done_bytes: int = 0
    total_bytes: int = 0
    complete: bool = False


class PullProgress:
    """One download."""

    def __init__(self, image: str) -> None:
        self._image = image
        self._layers: dict[str, _Layer] = {}
        self._told_at: float | None = None

    def take(self, line: Mapping[str, object], now: float) -> str:
        """Take a line and return what there is to tell, at most once in ``TELL_EVERY_S``; empty when there is nothing."""
        layer_id, status = str(line.get("id", "")), str(line.get("status", ""))
        detail = line.get("progressDetail")
        if not layer_id or status.startswith("Pulling from"):
            return ""
        layer = self._layers.setdefault(layer_id, _Layer())
        if status == "Downloading" and isinstance(detail, Mapping):
            layer.done_bytes = int(detail.get("current") or 0)
            layer.total_bytes = max(int(detail.get("total") or 0), layer.done_bytes)
        elif status in {"Download complete", *_DONE}:
            layer.done_bytes = layer.total_bytes
        layer.complete = layer.complete or status in _DONE
        if self._told_at is not None and now - self._told_at < TELL_EVERY_S:
            return ""
        self._told_at = now
        return self.describe()

    def describe(self) -> str:
        """Say how far it is. The total grows while layers are still waiting to begin."""
        layers = self._layers.values()
        done, total = sum(layer.done_bytes for layer in layers), sum(layer.total_bytes for layer in layers)
        complete = sum(layer.complete for layer in layers)
        size = f", {done / MEGABYTE:.1f} of {total / MEGABYTE:.1f} MB" if total else ""
        return f"pulling {self._image}: {complete} of {len(layers)} layers{size}"
