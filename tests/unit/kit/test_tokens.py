"""Join tokens: SwarmKit's form, the digest over the whole bundle, refusals that say what is wrong and never show the token."""

from __future__ import annotations

import hashlib

import pytest

from services.kit.errors import InvalidArgument
from services.kit.model.tokens import DIGEST_DIGITS, SECRET_DIGITS, make_token, matches, parse_token, root_digest

BUNDLE = b"-----BEGIN CERTIFICATE-----\nabc\n-----END CERTIFICATE-----\n"


def test_a_token_has_the_form_of_swarmkit() -> None:
    prefix, version, digest, secret = make_token(root_digest(BUNDLE), bytes(range(16))).split("-")
    assert (prefix, version) == ("SWMTKN", "1")
    assert (len(digest), len(secret)) == (DIGEST_DIGITS, SECRET_DIGITS)


def test_the_digest_is_that_of_all_bytes_of_the_bundle() -> None:
    assert int(root_digest(BUNDLE), 36) == int.from_bytes(hashlib.sha256(BUNDLE).digest(), "big")
    assert root_digest(BUNDLE) != root_digest(BUNDLE + BUNDLE)


def test_small_numbers_are_padded_to_full_length() -> None:
    token = parse_token(make_token(root_digest(BUNDLE), bytes(16)))
    assert token.secret == "0" * SECRET_DIGITS


def test_parsing_gives_back_what_was_made() -> None:
    text = make_token(root_digest(BUNDLE), b"\xff" * 16)
    assert str(parse_token(f"  {text}\n")) == text


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "must have the form"),
        ("SWMTKN-1-abc", "must have the form"),
        (f"OTHER-1-{'a' * 50}-{'b' * 25}", "must have the form"),
        (f"SWMTKN-2-{'a' * 50}-{'b' * 25}", "version"),
        (f"SWMTKN-1-{'a' * 49}-{'b' * 25}", "digest has 49 characters"),
        (f"SWMTKN-1-{'a' * 50}-{'b' * 24}", "secret has 24 characters"),
        (f"SWMTKN-1-{'A' * 50}-{'b' * 25}", "other than 0-9 and a-z"),
        (f"SWMTKN-1-{'a' * 50}-{'é' * 25}", "other than 0-9 and a-z"),
    ],
)
def test_a_malformed_token_is_refused_with_its_fault_and_without_its_secret(text: str, reason: str) -> None:
    with pytest.raises(InvalidArgument, match=reason) as caught:
        parse_token(text)
    assert "b" * 10 not in str(caught.value)
    assert caught.value.problems[0].hint


def test_nothing_matches_an_empty_token() -> None:
    assert not matches("", "")
    assert matches("x", "x")
    assert not matches("x", "y")
