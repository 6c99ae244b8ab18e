"""The weighted choice of a manager."""

from __future__ import annotations

import random
from collections import Counter

from services.kit.bus.remotes import FAILED, WORKED, Remotes
from services.kit.model.ids import NodeId
from services.kit.model.objects import ManagerPeer

SEED = 20


def peer(number: int, certificate: bytes = b"pem") -> ManagerPeer:
    return ManagerPeer(node_id=NodeId(f"m{number}"), addr=f"10.0.0.{number}:4242", certificate=certificate)


def picks(remotes: Remotes, count: int = 2000) -> Counter[str]:
    rng = random.Random(SEED)
    return Counter(chosen.node_id for _ in range(count) if (chosen := remotes.select(rng)) is not None)


def test_managers_of_equal_weight_are_picked_equally() -> None:
    counts = picks(Remotes([peer(1), peer(2), peer(3)]))
    assert min(counts.values()) > 500


def test_a_manager_that_works_is_preferred_and_one_that_failed_is_rarely_tried() -> None:
    remotes = Remotes([peer(1), peer(2)])
    for _ in range(4):
        remotes.observe(NodeId("m1"), WORKED)
        remotes.observe(NodeId("m2"), FAILED)
    assert remotes.weight(NodeId("m2")) < 0
    assert picks(remotes)["m1"] > 1950


def test_when_all_failed_all_are_tried() -> None:
    remotes = Remotes([peer(1), peer(2)])
    for number in (1, 2):
        for _ in range(number * 3):
            remotes.observe(NodeId(f"m{number}"), FAILED)
    assert min(picks(remotes).values()) > 800


def test_weights_are_smoothed_and_clipped() -> None:
    remotes = Remotes([peer(1)])
    assert remotes.weight(NodeId("m1")) == 5.0
    remotes.observe(NodeId("m1"), WORKED)
    assert remotes.weight(NodeId("m1")) == 7.5
    for _ in range(20):
        remotes.observe(NodeId("m1"), -10_000)
    assert remotes.weight(NodeId("m1")) == -256


def test_a_new_list_keeps_the_weights_of_those_that_stay() -> None:
    remotes = Remotes([peer(1), peer(2)])
    remotes.observe(NodeId("m1"), FAILED)
    remotes.replace([peer(3), peer(1)])
    assert [known.node_id for known in remotes.peers] == ["m1", "m3"]
    assert remotes.weight(NodeId("m1")) < remotes.weight(NodeId("m3"))
    assert remotes.weight(NodeId("m2")) == 0


def test_strangers_are_not_remembered() -> None:
    remotes = Remotes([peer(1)])
    remotes.observe(NodeId("m9"), WORKED)
    assert remotes.weight(NodeId("m9")) == 0


def test_excluded_managers_and_those_without_certificate_are_not_picked() -> None:
    remotes = Remotes([peer(1), peer(2, certificate=b"")])
    rng = random.Random(SEED)
    assert remotes.select(rng, {NodeId("m1")}) is None
    assert remotes.select(rng) == peer(1)
    assert Remotes().select(rng) is None


def test_a_manager_is_found_by_id_first_and_by_address_else() -> None:
    remotes = Remotes([peer(1), peer(2)])
    assert remotes.find(node_id="m1", addr="10.0.0.2:4242") == peer(1)
    assert remotes.find(node_id="gone", addr="10.0.0.2:4242") == peer(2)
    assert remotes.find(addr="") is None
