"""Keyed hashes in place of identities."""

from __future__ import annotations

import functools
import hashlib
import hmac
import logging
import os

_log = logging.getLogger(__name__)
_PUBLIC_KEY = "axon-public-default"


def pseudonym(prefix: str, identity: str, digits: int) -> str:
    """Keyed hash of an identity, so that it cannot be found again by trying names."""
    key = os.environ.get("AXON_PSEUDONYM_KEY", "")
    if not key:
        _warn_public_key()
    return (
        prefix
        + hmac.new((key or _PUBLIC_KEY).encode(), identity.encode(errors="surrogatepass"), hashlib.sha256).hexdigest()[
            :digits
        ]
    )


def patient_pseudonym(patient: str) -> str:
    """What a PatientID becomes."""
    return pseudonym("p", patient, 12)


def series_pseudonym(patient_id: str, series_uid: str) -> str:
    """The case id of a series of a patient who already has a pseudonym."""
    return f"{patient_id}-{pseudonym('', series_uid, 8)}"


@functools.cache
def _warn_public_key() -> None:
    _log.warning("AXON_PSEUDONYM_KEY is not set: patient ids are hashed with a public key and could be guessed")
