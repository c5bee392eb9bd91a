"""The one byte string for each thing that is hashed or signed as a value.

Lengths precede what varies, integers are fixed-width big-endian: no two values share an encoding. These bytes are
only ever made, never decoded.
"""

from __future__ import annotations

import struct

from tocsin.model.verdict import PosteriorEntry, Roster, Statement

_ENTRY = struct.Struct(">qqqBqq")


def _sized(data: bytes) -> bytes:
    return len(data).to_bytes(4, "big") + data


def entry_bytes(entry: PosteriorEntry) -> bytes:
    """Leaf of the posterior's Merkle tree."""
    numbers = _ENTRY.pack(
        entry.log_odds_q32, entry.log_e_q32, entry.last_seq, entry.flagged, entry.alpha_ppm, entry.fleet_size
    )
    return _sized(entry.agent_id.encode()) + numbers


def statement_bytes(statement: Statement) -> bytes:
    """What a vote signs."""
    return b"".join(
        (
            _sized(statement.net.encode()),
            _sized(statement.config_hash),
            struct.pack(">QQ", statement.epoch, statement.view),
            _sized(statement.phase.encode()),
            _sized(statement.prev_cert_hash),
            _sized(statement.cut_root),
            _sized(statement.posterior_root),
        )
    )


def decided_bytes(statement: Statement) -> bytes:
    """What two certificates of one decision have in common: no view, phase or signers, which may differ."""
    return b"".join(
        (
            _sized(statement.net.encode()),
            _sized(statement.config_hash),
            struct.pack(">Q", statement.epoch),
            _sized(statement.prev_cert_hash),
            _sized(statement.cut_root),
            _sized(statement.posterior_root),
        )
    )


def roster_bytes(roster: Roster) -> bytes:
    """What `config_hash` is a hash of."""
    keys = b"".join(_sized(key) for key in (*roster.keys, *roster.bls_keys, *roster.bls_proofs))
    head = struct.pack(">QQQ", len(roster.keys), roster.alpha_ppm, roster.prior_ppm)
    return _sized(roster.net.encode()) + head + keys


def timeout_bytes(net: str, config_hash: bytes, epoch: int, view: int, high_view: int) -> bytes:
    """What a TIMEOUT signs; `high_view` is -1 where the monitor saw no prepare certificate."""
    return _sized(net.encode()) + _sized(config_hash) + struct.pack(">QQq", epoch, view, high_view)
