"""The filters: which rows may have a task of a group, each filter as one set of rows, in SwarmKit's order.

Read by the planners (all of them at once, resources but for size classes) and by ``why`` (one after the other, exactly). A filter that
asks nothing answers ``ALL``.
"""

from __future__ import annotations

from services.dispatcher.core.fleet.bits import ALL, Bits
from services.dispatcher.core.fleet.facts import ABLE, PLATFORM, any_plugin, kind_of, runs_on
from services.dispatcher.core.fleet.fleet import Fleet
from services.dispatcher.core.fleet.group import Group
from services.kit.model.constraints import ENGINE_LABELS, NODE_LABELS, Constraint, Operator, is_known_key


def is_ready(fleet: Fleet, group: Group) -> Bits:
    """Rows whose node is READY and active."""
    return fleet.ready


def has_room(fleet: Fleet, group: Group) -> Bits:
    """Rows on which every reservation fits, exactly."""
    bits = ALL
    for need in group.needs:
        bits &= fleet.dimension(need.resource).exactly(need.amount)
    return bits


def can_run(fleet: Fleet, group: Group) -> Bits:
    """Rows whose node has the driver and the plugins."""
    bits = ALL
    for able in group.drivers:
        having = fleet.postings.equal(ABLE + able, "")
        kind = kind_of(able)
        if kind is not None:
            having |= fleet.postings.equal(ABLE + any_plugin(kind), "")
        bits &= having
    return bits


def meets_constraints(fleet: Fleet, group: Group) -> Bits:
    """Rows whose node meets all constraints."""
    bits = ALL
    for constraint in group.constraints:
        bits &= meeting(fleet, constraint)
    return bits


def meeting(fleet: Fleet, constraint: Constraint) -> Bits:
    """Return the rows whose node meets one constraint; the rules are those of ``kit.model.constraints``."""
    if constraint.key.lower() == "node.ip":
        inside = fleet.addresses.inside(constraint.value)
        if inside is None:
            return 0
        same = inside
    elif is_known_key(constraint.key):
        same = fleet.postings.equal(lookup_key(constraint.key), constraint.value)
    else:
        return 0
    return same if constraint.operator is Operator.EQUAL else fleet.known & ~same


def lookup_key(key: str) -> str:
    """Return a key as the facts spell it: names of labels keep their case, everything else is lower."""
    lowered = key.lower()
    for family in (NODE_LABELS, ENGINE_LABELS):
        if lowered.startswith(family):
            return family + key[len(family) :]
    return lowered


def has_platform(fleet: Fleet, group: Group) -> Bits:
    """Rows whose platform is one of those listed."""
    if not group.platforms:
        return ALL
    bits = 0
    for have, posting in fleet.postings.values(PLATFORM).items():
        if any(runs_on(wanted, have) for wanted in group.platforms):
            bits |= posting.bits
    return bits


def has_ports_free(fleet: Fleet, group: Group) -> Bits:
    """Rows on which nobody uses the host ports."""
    bits = ALL
    for port in group.host_ports:
        bits &= ~fleet.ports.rows(port)
    return bits


def is_below_max(fleet: Fleet, group: Group) -> Bits:
    """Rows with fewer tasks of the service than are allowed."""
    if not group.max_replicas:
        return ALL
    account = fleet.accounts.get(group.service)
    return ALL if account is None else ~account.at_least(group.max_replicas)


def is_good_company(fleet: Fleet, group: Group) -> Bits:
    """Rows with the services that the group asks for, and without those that it, or that they, will not have beside them."""
    bits = ALL
    for name in group.affinity:
        bits &= fleet.occupied_by(name)
    for name in group.anti_affinity:
        bits &= ~fleet.occupied_by(name)
    if group.name in fleet.shunned:
        bits &= ~fleet.shunned.rows(group.name)
    return bits


STANDING = (is_ready, can_run, meets_constraints, has_platform, has_ports_free, is_below_max, is_good_company)
"""All filters but resources."""


def standing(fleet: Fleet, group: Group) -> Bits:
    """Return the rows that pass all filters but resources."""
    bits = ALL
    for passes in STANDING:
        bits &= passes(fleet, group)
        if not bits:
            break
    return bits


def possible(fleet: Fleet, group: Group) -> Bits:
    """Return the rows that pass all filters, resources by their size class: every row that fits is among them."""
    bits = standing(fleet, group)
    for need in group.needs:
        bits &= fleet.dimension(need.resource).from_class(need.size)
    return bits


def fits(fleet: Fleet, group: Group, row: int) -> bool:
    """Tell whether one row that is possible may have a task of the group now, after others were placed on it."""
    if any(fleet.dimension(need.resource).free[row] < need.amount for need in group.needs):
        return False
    changing = has_ports_free(fleet, group) & is_below_max(fleet, group) & is_good_company(fleet, group)
    return bool(changing >> row & 1)
