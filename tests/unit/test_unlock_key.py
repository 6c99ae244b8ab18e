"""The unlock key in its written form, and the file that lies sealed under it."""

from __future__ import annotations

from pathlib import Path

import pytest

from services.kit.errors import DataLoss, InvalidArgument, PermissionDenied
from services.kit.model.unlock_key import KEY_BYTES, format_unlock_key, parse_unlock_key
from services.kit.runtime.sealed_key import KEYS_MAX, is_sealed, seal, split_keys, unseal

KEY = bytes(range(KEY_BYTES))
OTHER = bytes(reversed(KEY))
NONCE = bytes(12)


def test_a_written_key_is_read_back() -> None:
    written = format_unlock_key(KEY)
    assert written.startswith("SWMKEY-1-")
    assert "=" not in written
    assert parse_unlock_key(f" {written}\n") == KEY
    assert format_unlock_key(b"") == ""


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "begins with"),
        ("SWMTKN-1-abc", "begins with"),
        ("SWMKEY-1-", "0 bytes"),
        ("SWMKEY-1-!!!!", "characters that no key has"),
        (format_unlock_key(KEY) + "AAAA", "35 bytes"),
        (format_unlock_key(KEY)[:-2], "not whole"),
    ],
)
def test_what_is_no_key_is_refused_without_repeating_it(text: str, reason: str) -> None:
    with pytest.raises(InvalidArgument) as refused:
        parse_unlock_key(text)
    assert reason in str(refused.value)
    assert not text or text not in str(refused.value)
    assert "swarmctl cluster unlock-key" in str(refused.value.problems[0].hint)


@pytest.mark.parametrize("count", [1, 2, KEYS_MAX])
def test_sealed_keys_open_with_their_key_only(count: int) -> None:
    keys = bytes(range(32)) * count
    sealed = seal(keys, KEY, NONCE)
    assert is_sealed(sealed)
    assert not is_sealed(keys)
    assert unseal(sealed, KEY) == keys
    with pytest.raises(PermissionDenied):
        unseal(sealed, OTHER)
    with pytest.raises(PermissionDenied):
        unseal(sealed[:-1] + bytes([sealed[-1] ^ 1]), KEY)


@pytest.mark.parametrize("cut", [1, 31, 68, 69])
def test_a_sealed_file_of_no_possible_length_is_damaged(cut: int) -> None:
    with pytest.raises((DataLoss, PermissionDenied)) as refused:
        unseal(seal(KEY, KEY, NONCE)[:-cut], KEY)
    assert isinstance(refused.value, DataLoss)


@pytest.mark.parametrize("size", [0, 31, 33, 32 * (KEYS_MAX + 1)])
def test_a_plain_file_of_no_possible_length_is_damaged(size: int) -> None:
    with pytest.raises(DataLoss):
        split_keys(bytes(size), Path("data.key"))
