"""Certificates, chains and the files of a node's identity."""

from __future__ import annotations

import random
import stat
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519

from services.kit.bus import identity
from services.kit.bus.api import Caller
from services.kit.bus.identity import Identity, NodeKey, load_identity, new_key, save_node, save_roots
from services.kit.errors import DataLoss, NotFound, PermissionDenied, SwarmError, Unauthenticated
from services.kit.messages.method import MANAGER, WORKER
from services.kit.runtime.clock import SystemClock
from tests.support.pki import CLUSTER, Authority

NOW = SystemClock().wall()
DAY_S = 86_400.0


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


@pytest.fixture
def me(authority: Authority) -> Identity:
    return authority.manager()


def refusal(me: Identity, certificate: bytes, key: bytes, now: float = NOW) -> SwarmError:
    with pytest.raises((Unauthenticated, PermissionDenied)) as caught:
        me.check(certificate, key, now=now)
    return caught.value


def test_an_identity_knows_what_its_certificate_says(authority: Authority) -> None:
    before = SystemClock().wall()
    me = authority.identity("n1", WORKER, "c1")
    after = SystemClock().wall()
    assert (me.node_id, me.role, me.cluster_id) == ("n1", WORKER, "c1")
    assert me.not_before < before
    assert int(before) + 90 * DAY_S <= me.not_after <= after + 90 * DAY_S


def test_a_good_certificate_names_its_bearer(authority: Authority, me: Identity) -> None:
    key = new_key()
    certificate = authority.issue("w1", WORKER, public_key=key.public)
    expected = Caller(node_id="w1", role=WORKER, cluster_id=CLUSTER, public_key=key.public)
    assert me.check(certificate, key.public, now=NOW) == expected
    assert me.check(certificate, key.public, now=NOW) == expected, "from memory this time"
    assert Identity.key_in(certificate) == key.public


def test_time_is_looked_at_on_every_check_not_only_on_the_first(authority: Authority, me: Identity) -> None:
    key = new_key()
    certificate = authority.issue(public_key=key.public, days=1)
    assert me.check(certificate, key.public, now=NOW).node_id
    assert "expired" in str(refusal(me, certificate, key.public, NOW + 2 * DAY_S))
    assert "not valid yet" in str(refusal(me, certificate, key.public, NOW - 3 * DAY_S))


def test_the_key_is_looked_at_on_every_check_not_only_on_the_first(authority: Authority, me: Identity) -> None:
    key = new_key()
    certificate = authority.issue(public_key=key.public)
    me.check(certificate, key.public, now=NOW)
    assert "another key" in str(refusal(me, certificate, new_key().public))


def test_a_chain_over_an_intermediate_is_followed(authority: Authority, me: Identity) -> None:
    middle = Authority("middle", issuer=authority)
    key = new_key()
    certificate = middle.issue("w1", public_key=key.public)
    assert me.check(certificate, key.public, now=NOW).node_id == "w1"
    leaf_only = certificate.replace(middle.pem, b"")
    assert "root" in str(refusal(me, leaf_only, key.public))


def test_a_chain_is_valid_only_as_long_as_all_of_it(authority: Authority, me: Identity) -> None:
    middle = Authority("middle", issuer=authority, days=5)
    key = new_key()
    certificate = middle.issue("w1", public_key=key.public, days=90)
    assert "expired" in str(refusal(me, certificate, key.public, NOW + 6 * DAY_S))


def test_a_certificate_that_may_not_sign_signs_nothing(authority: Authority, me: Identity) -> None:
    usurper = Authority("usurper", issuer=authority, ca=False)
    key = new_key()
    assert "root" in str(refusal(me, usurper.issue("w1", public_key=key.public), key.public))


def test_an_authority_of_the_same_name_with_another_key_is_not_believed(me: Identity) -> None:
    stranger = Authority()
    key = new_key()
    assert "root" in str(refusal(me, stranger.issue(public_key=key.public), key.public))
    assert "root" in str(refusal(me, stranger.issue(public_key=key.public) + stranger.pem, key.public))


def test_a_long_or_circular_chain_ends(authority: Authority, me: Identity) -> None:
    above: Authority = authority
    pems = b""
    for number in range(6):
        above = Authority(f"level-{number}", issuer=above)
        pems = above.pem + pems
    key = new_key()
    leaf = above.issue("w1", public_key=key.public).replace(above.pem, b"")
    assert "root" in str(refusal(me, leaf + pems, key.public))
    assert "too many" in str(refusal(me, leaf + pems * 2, key.public))


def test_either_root_of_a_bundle_is_believed(authority: Authority) -> None:
    second = Authority()
    key = new_key()
    me = Identity(authority.manager().key, b"", authority.pem + second.pem)
    for issuer in (authority, second):
        assert me.check(issuer.issue(public_key=key.public), key.public, now=NOW).node_id == "node"


def test_another_cluster_is_refused_but_a_joining_machine_does_not_know_its_cluster_yet(
    authority: Authority, me: Identity
) -> None:
    key = new_key()
    certificate = authority.issue(cluster="cluster-2", public_key=key.public)
    assert isinstance(refusal(me, certificate, key.public), PermissionDenied)
    assert Identity.joining(authority.pem).check(certificate, key.public, now=NOW).cluster_id == "cluster-2"


@pytest.mark.parametrize("subject", [("", WORKER, "c"), ("n", "", "c"), ("n", WORKER, "")])
def test_a_certificate_that_leaves_out_a_name_is_refused(
    subject: tuple[str, str, str], authority: Authority, me: Identity
) -> None:
    key = new_key()
    certificate = authority.issue(*subject, public_key=key.public)
    assert "does not name" in str(refusal(me, certificate, key.public))


@pytest.mark.parametrize("junk", [b"", b"junk", b"-----BEGIN CERTIFICATE-----\n!!!\n-----END CERTIFICATE-----\n"])
def test_junk_is_refused(junk: bytes, me: Identity) -> None:
    assert isinstance(refusal(me, junk, me.public_key), Unauthenticated)
    with pytest.raises(Unauthenticated):
        Identity.key_in(junk)


def test_mutated_certificates_raise_nothing_but_a_refusal(authority: Authority, me: Identity) -> None:
    seed = 7
    rng = random.Random(seed)
    key = new_key()
    good = authority.issue("w1", public_key=key.public)
    for _ in range(300):
        bad = bytearray(good)
        for _ in range(rng.randint(1, 4)):
            bad[rng.randrange(30, len(bad) - 30)] = rng.choice(b"ABCDEFGHabcdefgh0123456789+/=\n")
        if bytes(bad) != good:
            try:
                caller = me.check(bytes(bad), key.public, now=NOW)
            except (Unauthenticated, PermissionDenied):
                continue
            assert caller.node_id == "w1", f"seed {seed}: only a change that decodes to the same bytes may pass"


def test_a_certificate_for_another_kind_of_key_is_refused(me: Identity) -> None:
    assert isinstance(refusal(me, me.roots, me.public_key), Unauthenticated)
    with pytest.raises(Unauthenticated, match="another kind"):
        Identity.key_in(me.roots)


def test_an_own_certificate_that_does_not_fit_is_refused_at_once(authority: Authority) -> None:
    with pytest.raises(DataLoss, match="does not belong to its key"):
        Identity(new_key(), authority.issue(public_key=new_key().public), authority.pem)
    with pytest.raises(DataLoss, match="not usable"):
        authority.identity(roots=Authority().pem)
    with pytest.raises(DataLoss, match="root bundle"):
        Identity.joining(b"junk")


def test_an_own_certificate_may_have_expired_so_that_the_node_can_ask_for_another(authority: Authority) -> None:
    assert authority.identity(days=-1).not_after < NOW


def test_saved_files_come_back_with_the_right_modes(authority: Authority, tmp_path: Path) -> None:
    directory = tmp_path / "certificates"
    me = authority.identity("n1", MANAGER)
    save_roots(directory, me.roots)
    save_node(directory, me.key, me.certificate)
    again = load_identity(directory)
    assert (again.key, again.certificate, again.roots) == (me.key, me.certificate, me.roots)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in directory.iterdir()}
    assert modes == {identity.ROOTS_FILE: 0o644, identity.CERTIFICATE_FILE: 0o644, identity.KEY_FILE: 0o600}
    assert stat.S_IMODE(directory.stat().st_mode) == 0o755


@pytest.mark.parametrize("same_key", [True, False])
@pytest.mark.parametrize("steps", [1, 2, 3])
def test_a_swap_cut_short_after_any_step_leaves_the_old_pair_or_the_new_one(
    steps: int, same_key: bool, authority: Authority, tmp_path: Path
) -> None:
    old = authority.identity("n1")
    new = authority.identity("n1", MANAGER, key=old.key if same_key else None)
    save_roots(tmp_path, old.roots)
    save_node(tmp_path, old.key, old.certificate)
    files = (identity.CERTIFICATE_FILE, identity.KEY_FILE)
    before = {name: (tmp_path / name).read_bytes() for name in files}
    save_node(tmp_path, new.key, new.certificate)
    if steps < 3:
        (tmp_path / f".{identity.CERTIFICATE_FILE}").write_bytes(new.certificate)
        (tmp_path / identity.CERTIFICATE_FILE).write_bytes(before[identity.CERTIFICATE_FILE])
    if steps < 2:
        (tmp_path / identity.KEY_FILE).write_bytes(before[identity.KEY_FILE])
    expected = new if steps >= 2 or same_key else old
    for _ in range(2):
        found = load_identity(tmp_path)
        assert (found.role, found.public_key) == (expected.role, expected.public_key)


def test_missing_and_damaged_files_are_told_apart(authority: Authority, tmp_path: Path) -> None:
    me = authority.identity("n1")
    with pytest.raises(NotFound, match=r"swarm-node\.key is missing"):
        load_identity(tmp_path)
    save_node(tmp_path, me.key, me.certificate)
    with pytest.raises(NotFound, match=r"swarm-root-ca\.crt is missing"):
        load_identity(tmp_path)
    save_roots(tmp_path, me.roots)
    (tmp_path / identity.KEY_FILE).write_bytes(b"junk")
    with pytest.raises(DataLoss, match="cannot be read as a key"):
        load_identity(tmp_path)
    other = ed25519.Ed25519PrivateKey.generate().private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (tmp_path / identity.KEY_FILE).write_bytes(other)
    with pytest.raises(DataLoss, match="another kind than X25519"):
        load_identity(tmp_path)


def test_a_secret_key_is_not_shown() -> None:
    key = NodeKey(b"s" * 32, b"p" * 32)
    assert "ssss" not in repr(key)
