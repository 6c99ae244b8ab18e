"""``swarmctl cluster``: the swarm's settings and join tokens."""

from __future__ import annotations

import argparse
from pathlib import Path

from msgspec.structs import replace

from services.cli.commands import Command
from services.cli.context import Context
from services.cli.listing import show_list, show_page
from services.cli.outcomes import Outcome
from services.cli.pages import cluster_page
from services.cli.parser import Parser, UsageError, add_flag, add_format, add_json, add_listing
from services.cli.plain import to_json
from services.cli.reading import Reading
from services.cli.tables import CLUSTER_HEADER, cluster_rows
from services.client import text
from services.client.clusters import DEFAULT
from services.kit.model.specs import ClusterSpec
from services.kit.model.validate import cluster_problems


def _inspect_arguments(parser: Parser) -> None:
    parser.add_argument("name", nargs="?", default=DEFAULT, metavar="NAME", help="the cluster (default: the only one)")
    add_format(parser)


async def _inspect(context: Context, flags: argparse.Namespace) -> Outcome:
    cluster = await context.client.clusters.get(flags.name)
    show_page(context, flags, cluster, lambda: cluster_page(cluster))
    return Outcome.OK


async def _list(context: Context, flags: argparse.Namespace) -> Outcome:
    clusters = await context.client.clusters.list()
    rows = cluster_rows(clusters, now=context.clock.wall(), whole=flags.no_trunc)
    show_list(context, flags, clusters, CLUSTER_HEADER, rows)
    return Outcome.OK


def _update_arguments(parser: Parser) -> None:
    parser.add_argument("name", nargs="?", default=DEFAULT, metavar="NAME", help="the cluster (default: the only one)")
    parser.add_argument(
        "--task-history-limit", "--taskhistory", metavar="NUMBER", help="tasks kept per slot, negative for all"
    )
    parser.add_argument(
        "--dispatcher-heartbeat", "--heartbeatperiod", metavar="DURATION", help="how often agents report"
    )
    parser.add_argument(
        "--forget-nodes-after", metavar="DURATION", help="remove workers that have been down for so long, 0 for never"
    )
    parser.add_argument("--cert-expiry", "--certexpiry", metavar="DURATION", help="how long certificates are valid")
    parser.add_argument(
        "--rotate-join-token",
        action="append",
        default=[],
        metavar="ROLE",
        help="make a new token for worker or manager; the old one lets nobody in any more",
    )
    parser.add_argument(
        "--token-lives", metavar="DURATION", help="how long the new tokens let nodes in (default: for ever)"
    )
    parser.add_argument(
        "--token-uses", metavar="NUMBER", help="how many nodes each new token lets in (default: any number)"
    )
    parser.add_argument(
        "--default-addr-pool",
        action="append",
        metavar="RANGE",
        help="where networks that name no subnet get theirs from, like 10.0.0.0/8; repeat it for several",
    )
    parser.add_argument(
        "--default-addr-pool-mask-length", metavar="NUMBER", help="size of those subnets as a prefix (default 24)"
    )
    parser.add_argument("--autolock", metavar="BOOL", help="whether managers start only with the unlock key")
    add_json(parser)


def _unlock_key_arguments(parser: Parser) -> None:
    add_flag(parser, "--rotate", help="make a new key first; the old one unlocks no manager that has heard of it")


async def _unlock_key(context: Context, flags: argparse.Namespace) -> Outcome:
    if flags.rotate:
        await context.client.clusters.rotate_unlock_key()
    key = await context.client.clusters.unlock_key()
    if not key:
        context.output.error("managers are not locked", ["lock them with `swarmctl cluster update --autolock true`"])
        return Outcome.FAILED
    context.output.line(key)
    return Outcome.OK


def _rotate_root_arguments(parser: Parser) -> None:
    parser.add_argument("--ca-cert", metavar="FILE", help="certificate of the new root in PEM (default: a fresh root)")
    parser.add_argument("--ca-key", metavar="FILE", help="its private key in PEM")
    add_flag(parser, "--abort", help="stay with the root there is")
    add_json(parser)


async def _rotate_root(context: Context, flags: argparse.Namespace) -> Outcome:
    if flags.abort and (flags.ca_cert or flags.ca_key):
        raise UsageError("--abort and a new root contradict each other", "give one of them")
    if bool(flags.ca_cert) != bool(flags.ca_key):
        raise UsageError("a root of your own is a certificate and its key", "give --ca-cert and --ca-key, or neither")
    clusters = context.client.clusters
    if flags.abort:
        cluster = await clusters.abort_root_rotation()
    else:
        certificate, key = (_content(path) if path else b"" for path in (flags.ca_cert, flags.ca_key))
        cluster = await clusters.rotate_root(certificate=certificate, key=key)
    context.output.line(to_json(cluster) if flags.json else cluster.id)
    return Outcome.OK


def _content(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}", "name a file in PEM") from None


async def _update(context: Context, flags: argparse.Namespace) -> Outcome:
    reading = Reading()
    for role in flags.rotate_join_token:
        if role not in {"worker", "manager"}:
            reading.refuse("--rotate-join-token", "is not a role", role, "use worker or manager")
    settings = (
        flags.task_history_limit,
        flags.dispatcher_heartbeat,
        flags.forget_nodes_after,
        flags.cert_expiry,
        flags.autolock,
        flags.default_addr_pool,
        flags.default_addr_pool_mask_length,
    )
    if not any(value is not None for value in settings) and not flags.rotate_join_token:
        raise UsageError("there is nothing to change", "see `swarmctl cluster update --help`")
    lives_s, uses = _token_limits(reading, flags)
    old = await context.client.clusters.get(flags.name)
    _with_settings(reading, old.spec, flags)
    reading.finish()
    cluster = old
    if any(value is not None for value in settings):
        cluster = await context.client.clusters.update(flags.name, lambda spec: _with_settings(Reading(), spec, flags))
    if flags.rotate_join_token:
        cluster = await context.client.clusters.rotate_tokens(
            flags.name,
            worker="worker" in flags.rotate_join_token,
            manager="manager" in flags.rotate_join_token,
            lives_s=lives_s,
            uses=uses,
        )
    if flags.json:
        context.output.line(to_json(cluster))
        return Outcome.OK
    tokens = cluster.root_ca.join_tokens
    for role in dict.fromkeys(flags.rotate_join_token):
        context.output.line(tokens.worker if role == "worker" else tokens.manager)
    if not flags.rotate_join_token:
        context.output.line(cluster.id)
    return Outcome.OK


def _token_limits(reading: Reading, flags: argparse.Namespace) -> tuple[float, int]:
    for flag, value in (("--token-lives", flags.token_lives), ("--token-uses", flags.token_uses)):
        if value is not None and not flags.rotate_join_token:
            reading.refuse(flag, "limits a new token, but none is made", value, "give --rotate-join-token as well")
    lives_s = reading.one(text.duration_s, flags.token_lives, "--token-lives", 0.0)
    return lives_s, reading.one(text.whole, flags.token_uses, "--token-uses", 0)


def _with_settings(reading: Reading, spec: ClusterSpec, flags: argparse.Namespace) -> ClusterSpec:
    history = reading.one(
        _any_whole,
        flags.task_history_limit,
        "--task-history-limit",
        spec.orchestration.task_history_retention_limit,
    )
    heartbeat_s = reading.one(
        text.duration_s, flags.dispatcher_heartbeat, "--dispatcher-heartbeat", spec.dispatcher.heartbeat_period_s
    )
    ghosts_s = reading.one(
        text.duration_s, flags.forget_nodes_after, "--forget-nodes-after", spec.orchestration.ghost_nodes_after_s
    )
    expiry_s = reading.one(text.duration_s, flags.cert_expiry, "--cert-expiry", spec.ca.node_cert_expiry_s)
    autolock = reading.one(text.boolean, flags.autolock, "--autolock", spec.auto_lock_managers)
    size = flags.default_addr_pool_mask_length
    pools = replace(
        spec.networking,
        default_address_pools=tuple(flags.default_addr_pool or spec.networking.default_address_pools),
        subnet_size=reading.one(text.whole, size, "--default-addr-pool-mask-length", spec.networking.subnet_size),
    )
    changed = replace(
        spec,
        networking=pools,
        auto_lock_managers=autolock,
        orchestration=replace(spec.orchestration, task_history_retention_limit=history, ghost_nodes_after_s=ghosts_s),
        dispatcher=replace(spec.dispatcher, heartbeat_period_s=heartbeat_s),
        ca=replace(spec.ca, node_cert_expiry_s=expiry_s),
    )
    reading.problems += cluster_problems(changed)
    return changed


def _any_whole(value: str, path: str) -> int:
    return text.whole(value, path, least=-(2**31))


COMMANDS = (
    Command(name="inspect", summary="show the cluster and its join tokens", arguments=_inspect_arguments, run=_inspect),
    Command(name="ls", summary="list clusters", arguments=add_listing, run=_list, aliases=("list",)),
    Command(
        name="rotate-ca",
        summary="move the cluster to another root certificate, node by node",
        arguments=_rotate_root_arguments,
        run=_rotate_root,
    ),
    Command(
        name="unlock-key",
        summary="show the key that unlocks managers, or make a new one",
        arguments=_unlock_key_arguments,
        run=_unlock_key,
    ),
    Command(name="update", summary="change settings, rotate join tokens", arguments=_update_arguments, run=_update),
)
