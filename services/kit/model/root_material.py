"""Is this a root that a cluster can go over to? Asked by the dispatcher before it takes the settings, and by tests.

Only looks: nothing is signed here. Private keys are never repeated in what is said.
"""

from __future__ import annotations

from datetime import UTC, datetime

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from services.kit.errors import Problem

LEFT_MIN_S = 365 * 24 * 3600.0
"""A root that ends sooner is not worth the trouble."""
RSA_BITS_MIN = 2048
CERTIFICATE_PATH = "ca.signing_ca_cert"
KEY_PATH = "ca.signing_ca_key"


def root_problems(certificate: bytes, key: bytes, *, current: bytes, now: float) -> tuple[Problem, ...]:
    """Return why the cluster cannot rotate to this root; nothing for no root at all, and for the current one, which ends a rotation."""
    if not certificate:
        return (_problem(KEY_PATH, "is given without its certificate"),) if key else ()
    if certificate == current:
        return ()
    try:
        found = x509.load_pem_x509_certificates(certificate)
    except ValueError:
        return (_problem(CERTIFICATE_PATH, "is no certificate in PEM"),)
    if len(found) != 1:
        return (_problem(CERTIFICATE_PATH, f"holds {len(found)} certificates instead of one"),)
    root = found[0]
    return (*_certificate_problems(root, now), *_key_problems(root, key, current))


def _certificate_problems(root: x509.Certificate, now: float) -> list[Problem]:
    problems = []
    try:
        constraints = root.extensions.get_extension_for_class(x509.BasicConstraints).value
    except (x509.ExtensionNotFound, ValueError):
        constraints = None
    if constraints is None or not constraints.ca:
        problems.append(_problem(CERTIFICATE_PATH, "may not sign certificates: it is no certificate of a CA"))
    elif constraints.path_length == 0:
        problems.append(
            _problem(CERTIFICATE_PATH, "allows no intermediate below it", "the next rotation needs one: path length 1")
        )
    if root.not_valid_before_utc > datetime.fromtimestamp(now, UTC):
        problems.append(_problem(CERTIFICATE_PATH, "is not valid yet"))
    if root.not_valid_after_utc < datetime.fromtimestamp(now + LEFT_MIN_S, UTC):
        problems.append(_problem(CERTIFICATE_PATH, "ends in less than a year"))
    return problems


def _key_problems(root: x509.Certificate, key: bytes, current: bytes) -> list[Problem]:
    if not key:
        return [_problem(KEY_PATH, "is missing: the cluster signs with it")]
    try:
        private = serialization.load_pem_private_key(key, None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        return [_problem(KEY_PATH, "is no private key in PEM without a passphrase")]
    if not isinstance(private, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey):
        return [_problem(KEY_PATH, "is neither an elliptic curve key nor an RSA key")]
    if isinstance(private, rsa.RSAPrivateKey) and private.key_size < RSA_BITS_MIN:
        return [_problem(KEY_PATH, f"is shorter than {RSA_BITS_MIN} bits")]
    if _raw(private.public_key()) != _raw(root.public_key()):
        return [_problem(KEY_PATH, "does not belong to the certificate")]
    if _raw(private.public_key()) == _raw(x509.load_pem_x509_certificate(current).public_key()):
        return [_problem(KEY_PATH, "is the key of the current root", "rotating makes sense with another key only")]
    return []


def _raw(key: object) -> bytes:
    if not isinstance(key, ec.EllipticCurvePublicKey | rsa.RSAPublicKey):
        return b""
    return key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def _problem(path: str, reason: str, hint: str = "") -> Problem:
    return Problem(path=path, reason=reason, hint=hint)
