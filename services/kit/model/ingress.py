"""Options of published ports as users write them, in ``--publish``, stack files and labels; and which services may share a port.

Used by the clients that read texts, by the store (who holds a port) and by the dispatcher (what a port asks of the gateways). Labels of a
service, ``swarmbus.ingress.TARGET.OPTION=VALUE`` with the port's target number or its name, say what Docker's words cannot; they count
more than what the spec says. What must stay true: what may share a port never claims the same name and path twice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import msgspec

from services.kit.errors import InvalidArgument, Problem
from services.kit.model.specs import HttpConfig, IngressConfig, PortConfig, ServiceSpec
from services.kit.model.states import BalanceAlgorithm, DataPlane, Protocol, ProxyVersion, PublishMode
from services.kit.model.words import boolean, choice, duration_s, refuse, size_bytes, whole

LABELS = "swarmbus.ingress."
ANY = "*"
_replace = msgspec.structs.replace

Read = Callable[[str, str], Any]


def _flag(text: str, path: str) -> bool:
    return not text or boolean(text, path)


def _text(text: str, path: str) -> str:
    if not text:
        refuse(path, "has no value", text)
    return text


_SINGLE: Mapping[str, tuple[str, Read]] = {
    "balance": ("algorithm", lambda text, path: choice(BalanceAlgorithm, text, path)),
    "weight-label": ("weight_label", _text),
    "local-first": ("local_first", _flag),
    "slow-start": ("slow_start_s", duration_s),
    "drain": ("drain_s", duration_s),
    "idle-timeout": ("idle_timeout_s", duration_s),
    "connections-max": ("connections_max", whole),
    "proxy-to": ("proxy_to", lambda text, path: choice(ProxyVersion, text, path)),
    "tls-secret": ("tls_secret", _text),
    "plane": ("plane", lambda text, path: choice(DataPlane, text, path)),
}
"""Options with one value, and the fields that hold them."""
_LISTS: Mapping[str, str] = {"address": "addresses", "node": "nodes", "proxy-from": "proxy_from", "sni": "sni"}
"""Options that may come several times."""
_HTTP_SINGLE: Mapping[str, tuple[str, Read]] = {
    "http-head-max": ("head_bytes_max", size_bytes),
    "http-head-timeout": ("head_timeout_s", duration_s),
}
_HTTP_LISTS: Mapping[str, str] = {"host": "hosts", "path": "paths"}
"""Options of HTTP ports; each of them makes the port one."""
OPTIONS = (
    "http",
    *_HTTP_LISTS,
    "tls-secret",
    *(name for name in _SINGLE if name != "tls-secret"),
    *_LISTS,
    *_HTTP_SINGLE,
)
"""All names, for complaints and help."""


def read_ingress(base: IngressConfig, options: Iterable[tuple[str, str]], path: str) -> IngressConfig:
    """Return ``base`` with these options; lists are replaced by what is given. Raises InvalidArgument."""
    fields: dict[str, Any] = {}
    http: dict[str, Any] = {}
    is_http = base.http is not None
    for name, text in options:
        where = f"{path}: {name}"
        if name == "http":
            is_http = _flag(text, where)
        elif name in _SINGLE:
            field, read = _SINGLE[name]
            fields[field] = read(text, where)
        elif name in _LISTS:
            fields[_LISTS[name]] = (*fields.get(_LISTS[name], ()), _text(text, where))
        elif name in _HTTP_SINGLE:
            field, read = _HTTP_SINGLE[name]
            http[field] = read(text, where)
        elif name in _HTTP_LISTS:
            http[_HTTP_LISTS[name]] = (*http.get(_HTTP_LISTS[name], ()), _text(text, where))
        else:
            refuse(path, f"has an unknown option {name!r}", text, "options are " + ", ".join(OPTIONS))
    if is_http or http:
        fields["http"] = _replace(base.http or HttpConfig(), **http)
    return _replace(base, **fields)


# -- labels


def with_labels(port: PortConfig, labels: Mapping[str, str]) -> PortConfig:
    """Return a port as its service's labels want it. Raises InvalidArgument."""
    names = {str(port.target_port), port.name}
    options: list[tuple[str, str]] = []
    for label in sorted(label for label in labels if label.startswith(LABELS)):
        target, _, option = label.removeprefix(LABELS).partition(".")
        if target in names:
            many = option in _LISTS or option in _HTTP_LISTS
            options += [(option, text.strip()) for text in (labels[label].split(",") if many else (labels[label],))]
    return _replace(port, ingress=read_ingress(port.ingress, options, "annotations.labels")) if options else port


def wanted(port: PortConfig, labels: Mapping[str, str]) -> PortConfig:
    """Return a port of a stored service as its labels want it; labels that were stored unread change nothing."""
    if not any(label.startswith(LABELS) for label in labels):
        return port
    try:
        return with_labels(port, labels)
    except InvalidArgument:
        return port


def ports_of(spec: ServiceSpec) -> tuple[PortConfig, ...]:
    """Return a service's ports as its labels want them; raises InvalidArgument."""
    return tuple(with_labels(port, spec.annotations.labels) for port in spec.endpoint.ports)


def label_problems(spec: ServiceSpec) -> Iterable[Problem]:
    """Return what is wrong with a service's labels for ports."""
    ports = spec.endpoint.ports
    known = {str(port.target_port) for port in ports} | {port.name for port in ports if port.name}
    for label in sorted(spec.annotations.labels):
        if label.startswith(LABELS) and label.removeprefix(LABELS).partition(".")[0] not in known:
            hint = f"write {LABELS}TARGET.OPTION, for example {LABELS}80.host"
            yield Problem(
                path=f"annotations.labels[{label}]", reason="names no port of the service", value=label, hint=hint
            )
    try:
        ports_of(spec)
    except InvalidArgument as error:
        yield from error.problems


# -- sharing


def is_shareable(port: PortConfig) -> bool:
    """Tell whether other services may have the same published port."""
    return is_by_name(port.ingress) and port.protocol is Protocol.TCP and port.publish_mode is PublishMode.INGRESS


def is_by_name(ingress: IngressConfig) -> bool:
    """Tell whether clients say which service they mean, by HTTP or TLS."""
    return ingress.http is not None or bool(ingress.sni) or bool(ingress.tls_secret)


def is_tls(ingress: IngressConfig) -> bool:
    """Tell whether clients begin with TLS that the gateways look into."""
    return bool(ingress.sni) or bool(ingress.tls_secret)


def claims(ingress: IngressConfig) -> frozenset[tuple[str, str]]:
    """Return the names and paths that are the service's; whoever passes TLS on or has no HTTP has all paths, said as ""."""
    if ingress.http is not None:
        hosts, paths = ingress.http.hosts or (ANY,), ingress.http.paths or ("/",)
        return frozenset((host.lower(), path.rstrip("/") or "/") for host in hosts for path in paths)
    return frozenset((name.lower(), "") for name in ingress.sni or (ANY,))


def why_not_together(one: PortConfig, other: PortConfig) -> str:
    """Return why two services may not have the same published port; nothing when they may."""
    if one.publish_mode is PublishMode.HOST and other.publish_mode is PublishMode.HOST:
        return ""  # the scheduler keeps them on different nodes
    if not is_shareable(one) or not is_shareable(other):
        return "has it for itself"
    ours, theirs = one.ingress, other.ingress
    for field in ("addresses", "nodes", "proxy_from", "connections_max", "idle_timeout_s"):
        if getattr(ours, field) != getattr(theirs, field):
            return f"shares it only with the same {field}"
    if is_tls(ours) != is_tls(theirs):
        return "shares it only when both or none have TLS"
    if ours.http is not None and theirs.http is not None:
        if (ours.http.head_bytes_max, ours.http.head_timeout_s) != (
            theirs.http.head_bytes_max,
            theirs.http.head_timeout_s,
        ):
            return "shares it only with the same limits of a request's head"
        same = claims(ours) & claims(theirs)
    else:
        same = _same_names(claims(ours), claims(theirs))
    if same:
        host, path = min(same)
        return f"answers for {host}{path} there"
    return ""


def _same_names(ours: frozenset[tuple[str, str]], theirs: frozenset[tuple[str, str]]) -> frozenset[tuple[str, str]]:
    """Where one of the two reads no HTTP, a name has one owner."""
    names = {name for name, _ in theirs}
    return frozenset((name, "") for name, _ in ours if name in names)
