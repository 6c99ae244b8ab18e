"""Reading ``TaskSpec.driver_options``: texts become values as the driver declared them, and what it did not declare is refused."""

from __future__ import annotations

from collections.abc import Mapping

from services.agent.drivers.api import Option, OptionKind, Rejected, Unsupported

OptionValue = str | int | float | bool


def read_options(driver: str, declared: tuple[Option, ...], given: Mapping[str, str]) -> dict[str, OptionValue]:
    """Return every declared option with its given or default value; raises Unsupported or Rejected."""
    unknown = sorted(given.keys() - {option.name for option in declared})
    if unknown:
        raise Unsupported(driver, tuple(f"driver_options.{name}" for name in unknown))
    return {option.name: _read(driver, option, given.get(option.name, option.default)) for option in declared}


def _read(driver: str, option: Option, text: str) -> OptionValue:
    try:
        match option.kind:
            case OptionKind.INTEGER:
                return int(text)
            case OptionKind.SECONDS:
                return _seconds(text)
            case OptionKind.FLAG:
                return {"true": True, "false": False}[text]
            case OptionKind.TEXT:
                return text
    except (ValueError, KeyError):
        raise Rejected(f"the {driver} driver's option {option.name} is no {option.kind}: {text!r}") from None


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 0 <= seconds < float("inf"):
        raise ValueError(text)
    return seconds
