"""The roster of monitors: its hash, its JSON-able form, and deterministic keys for tests and demonstrations."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, cast

from tocsin.errors import ConfigError
from tocsin.model.verdict import Roster
from tocsin.trust import bls
from tocsin.trust.canonical import roster_bytes
from tocsin.trust.signing import PUBLIC_KEY_BYTES, Signer, domain_hash

MAX_MONITORS = 1024
MAX_NET_CHARACTERS = 64
MILLION = 1_000_000
_ROSTER = b"tocsin/1 roster"
_TEST_KEY = b"tocsin/1 deterministic test key"
_FIELDS = {"net", "keys", "alpha_ppm", "prior_ppm"}
_BLS_FIELDS = {"bls_keys", "bls_proofs"}


@lru_cache(maxsize=64)
def roster_hash(roster: Roster) -> bytes:
    """`config_hash` of everything signed under this roster; 32 bytes."""
    return domain_hash(_ROSTER, roster_bytes(roster))


def check_roster(roster: Roster) -> Roster:
    """The same roster; raises ConfigError naming what is wrong with it."""
    if not 1 <= len(roster.net) <= MAX_NET_CHARACTERS or not roster.net.isprintable():
        raise ConfigError(
            f"the roster's net must be 1..{MAX_NET_CHARACTERS} printable characters",
            remedy="give the fleet a short name",
        )
    if not 1 <= roster.n <= MAX_MONITORS:
        raise ConfigError(f"a roster has 1..{MAX_MONITORS} monitors, not {roster.n}", remedy="list each monitor's key")
    if any(len(key) != PUBLIC_KEY_BYTES for key in roster.keys):
        raise ConfigError(
            f"a monitor's public key has {PUBLIC_KEY_BYTES} bytes", remedy="copy the key as 64 hex digits"
        )
    if len(set(roster.keys)) != roster.n:
        raise ConfigError("two monitors share a key", remedy="give each monitor its own key")
    for name, ppm in (("alpha_ppm", roster.alpha_ppm), ("prior_ppm", roster.prior_ppm)):
        if not 0 < ppm < MILLION:
            raise ConfigError(f"{name} must lie between 1 and {MILLION - 1}, not {ppm}", remedy="10000 means 1 %")
    if roster.bls_keys or roster.bls_proofs:
        _check_bls_keys(roster)
    return roster


def _check_bls_keys(roster: Roster) -> None:
    if not len(roster.bls_keys) == len(roster.bls_proofs) == roster.n:
        raise ConfigError("a roster has a BLS key and a proof for every monitor, or none", remedy="list all or none")
    if len(set(roster.bls_keys)) != roster.n:
        raise ConfigError("two monitors share a BLS key", remedy="give each monitor its own key")
    for i, (key, proof) in enumerate(zip(roster.bls_keys, roster.bls_proofs, strict=True)):
        # A key made from others' keys would sign for them too; nobody can prove to hold the secret of such a key.
        if not bls.possession_holds(key, proof):
            raise ConfigError(
                f"the proof that monitor {i} holds its BLS key does not hold", remedy="take the proof of that monitor"
            )


def roster_to_dict(roster: Roster) -> dict[str, Any]:
    """JSON-able form, keys in hex."""
    return {
        "net": roster.net,
        "keys": [key.hex() for key in roster.keys],
        "alpha_ppm": roster.alpha_ppm,
        "prior_ppm": roster.prior_ppm,
        **(
            {name: [one.hex() for one in getattr(roster, name)] for name in sorted(_BLS_FIELDS)}
            if roster.adds_up
            else {}
        ),
    }


def _hex(value: object, size: int) -> bytes:
    if not isinstance(value, str) or not re.fullmatch(f"[0-9a-f]{{{2 * size}}}", value):
        raise ConfigError(
            f"a monitor's public key must be {2 * size} lower-case hex digits", remedy="copy it unchanged"
        )
    return bytes.fromhex(value)


def _hex_list(value: object, size: int) -> tuple[bytes, ...]:
    if not isinstance(value, list):
        raise ConfigError("a roster's keys and proofs are lists", remedy="take the roster file that tocsin wrote")
    return tuple(_hex(one, size) for one in cast(list[object], value))


def roster_from_dict(data: object) -> Roster:
    """Inverse of `roster_to_dict`; raises ConfigError for anything else."""
    if not isinstance(data, dict) or set(cast(dict[Any, Any], data)) not in (_FIELDS, _FIELDS | _BLS_FIELDS):
        raise ConfigError(
            f"a roster is an object with {', '.join(sorted(_FIELDS))}", remedy="take the roster file that tocsin wrote"
        )
    fields = cast(dict[str, Any], data)
    if not isinstance(fields["net"], str):
        raise ConfigError("a roster's net is a string", remedy="take the roster file that tocsin wrote")
    if any(type(fields[name]) is not int for name in ("alpha_ppm", "prior_ppm")):
        raise ConfigError("a roster's alpha_ppm and prior_ppm are whole numbers", remedy="10000 means 1 %")
    return check_roster(
        Roster(
            net=fields["net"],
            keys=_hex_list(fields["keys"], PUBLIC_KEY_BYTES),
            alpha_ppm=fields["alpha_ppm"],
            prior_ppm=fields["prior_ppm"],
            bls_keys=_hex_list(fields.get("bls_keys", []), bls.KEY_BYTES),
            bls_proofs=_hex_list(fields.get("bls_proofs", []), bls.SIGNATURE_BYTES),
        )
    )


def deterministic_signers(seed: bytes, n: int) -> tuple[Signer, ...]:
    """`n` signers derived from `seed`: for tests and demonstrations, where secrecy does not matter."""
    return tuple(Signer(domain_hash(_TEST_KEY, seed + i.to_bytes(4, "big"))) for i in range(n))


def roster_of(
    net: str, signers: Sequence[Signer], *, alpha_ppm: int = 10_000, prior_ppm: int = 10_000, adds_up: bool = False
) -> Roster:
    """The roster whose monitor i signs with `signers[i]`, with BLS keys if votes are to add up; raises ConfigError."""
    summing = signers if adds_up else ()
    return check_roster(
        Roster(
            net=net,
            keys=tuple(signer.public_key for signer in signers),
            alpha_ppm=alpha_ppm,
            prior_ppm=prior_ppm,
            bls_keys=tuple(signer.bls.public_key for signer in summing),
            bls_proofs=tuple(signer.bls.prove_possession() for signer in summing),
        )
    )
