"""The data directory: lock, keys, roster, and the names of the files in it."""

from __future__ import annotations

import fcntl
import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from tocsin.errors import ConfigError, StorageCorrupt, StorageError
from tocsin.model.verdict import Roster
from tocsin.trust.keyring import roster_from_dict, roster_to_dict
from tocsin.trust.signing import SEED_BYTES, Signer

SALT_BYTES = 32
SALT_SUM_BYTES = 8


@dataclass(slots=True)
class DataDir:
    """An opened and locked data directory. `close()` releases the lock."""

    path: Path
    fresh: bool  # made just now: only then may its databases be absent
    roster: Roster
    signers: tuple[Signer, ...]
    salt: bytes  # keys the digests of raw text, so that a value keeps its digest over restarts
    _lock: int

    @property
    def journal(self) -> Path:
        return self.path / "journal.db"

    @property
    def ingest(self) -> Path:
        return self.path / "ingest.db"

    @property
    def store(self) -> Path:
        return self.path / "store.db"

    @property
    def certificates(self) -> Path:
        return self.path / "certificates"

    def complete(self) -> None:
        """Note that all files exist; from now on one that is missing was lost."""
        (self.path / MADE_LAST).touch()

    @property
    def endpoint(self) -> Path:
        return self.path / "endpoint.json"

    def close(self) -> None:
        os.close(self._lock)


def open_datadir(path: Path, *, monitors: int, alpha_ppm: int, prior_ppm: int) -> DataDir:
    """Create or reopen `path` for writing; keys are made at the first start and never leave it.

    Raises:
        StorageError: it cannot be written, or another tocsin is using it.
        ConfigError: it was made for another number of monitors or another alarm level.
    """
    try:
        (path / "certificates").mkdir(parents=True, exist_ok=True)
        lock = os.open(path / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise StorageError(
            f"cannot write to the data directory {path}: {error.strerror}",
            remedy="choose a writable directory with --data",
        ) from error
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise StorageError(
                f"another tocsin is using {path}", remedy="stop it, or choose another directory with --data"
            ) from error
        fresh = not (path / "roster.json").exists()
        if fresh:
            _make_keys(path, monitors, alpha_ppm, prior_ppm)
        _demand_whole(path, fresh)
        roster, signers = _keys(path, monitors, alpha_ppm, prior_ppm)
        salt = _read_salt(path / "keys" / "digest.salt")
    except BaseException:
        os.close(lock)
        raise
    return DataDir(path, fresh, roster, signers, salt, lock)


def read_roster(path: Path) -> Roster:
    """The roster of an existing data directory, or a roster file. Raises StorageError or StorageCorrupt."""
    file = path / "roster.json" if path.is_dir() else path
    try:
        body: Any = msgspec.json.decode(file.read_bytes())
    except OSError as error:
        raise StorageError(f"cannot read {file}: {error.strerror}", remedy="name a tocsin data directory") from error
    except msgspec.MsgspecError as error:
        raise StorageCorrupt(f"{file} is not JSON: {error}") from error
    return roster_from_dict(body)


def write_durably(file: Path, body: bytes, mode: int = 0o644) -> None:
    """Write, fsync, rename, fsync the directory: after a crash the file is whole or absent."""
    temporary = file.with_name(file.name + ".tmp")
    with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode), "wb") as out:
        out.write(body)  # all of it, or an error: a full disk must not leave half a key under its name
        out.flush()
        os.fsync(out.fileno())
    temporary.replace(file)
    directory = os.open(file.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


MADE_LAST = "complete"  # exists once keys, salt, roster and databases were all made


def _make_keys(path: Path, monitors: int, alpha_ppm: int, prior_ppm: int) -> None:
    """Keys, salt and roster of a new directory. Raises StorageCorrupt where there is anything to lose."""
    keys = path / "keys"
    used = [*path.glob("*.db"), *path.glob(MADE_LAST), *(path / "certificates").iterdir()]
    if not used:  # a first start that did not get to its end, as on a full disk: these keys never signed anything
        for leftover in [*keys.glob("monitor-*.seed*"), *keys.glob("digest.salt*")]:
            leftover.unlink()
    held = [*keys.glob("*"), *used]
    if held:
        raise StorageCorrupt(
            f"{path} has {held[0].name} and no roster.json", remedy="put the roster back, or use another directory"
        )
    keys.mkdir(mode=0o700, exist_ok=True)
    seeds = [os.urandom(SEED_BYTES) for _ in range(monitors)]
    for i, seed in enumerate(seeds):
        write_durably(keys / f"monitor-{i}.seed", seed, 0o600)
    salt = os.urandom(SALT_BYTES)
    write_durably(keys / "digest.salt", salt + _sum_of(salt), 0o600)
    public = tuple(Signer(seed).public_key for seed in seeds)
    net = f"net-{os.urandom(6).hex()}"
    made = Roster(net=net, keys=public, alpha_ppm=alpha_ppm, prior_ppm=prior_ppm)
    write_durably(path / "roster.json", msgspec.json.format(msgspec.json.encode(roster_to_dict(made)), indent=1))


def _demand_whole(path: Path, fresh: bool) -> None:
    """A monitor must not forget what it signed, nor a detector what it learned: nothing that was there may be gone."""
    salt = path / "keys" / "digest.salt"
    gone = [] if salt.exists() and salt.stat().st_size else [salt]
    if not fresh and (path / MADE_LAST).exists():
        databases = (path / name for name in ("journal.db", "ingest.db", "store.db"))
        gone += [file for file in databases if not file.exists() or file.stat().st_size == 0]
    if gone:
        raise StorageCorrupt(
            f"{gone[0]} is gone or empty",
            remedy="restore it from a copy; starting without it would contradict the past",
        )


def _read_salt(file: Path) -> bytes:
    """The salt; another one would make every value and recipient look new. Raises StorageCorrupt."""
    body = file.read_bytes()
    salt, kept = body[:SALT_BYTES], body[SALT_BYTES:]
    if len(salt) != SALT_BYTES or kept not in (b"", _sum_of(salt)):  # directories of before had no checksum
        raise StorageCorrupt(f"{file} is damaged", remedy="restore it from a copy, or use another directory")
    return salt


def _sum_of(salt: bytes) -> bytes:
    return hashlib.blake2b(salt, digest_size=SALT_SUM_BYTES).digest()


def _keys(path: Path, monitors: int, alpha_ppm: int, prior_ppm: int) -> tuple[Roster, tuple[Signer, ...]]:
    keys = path / "keys"
    roster = read_roster(path)
    if (roster.n, roster.alpha_ppm, roster.prior_ppm) != (monitors, alpha_ppm, prior_ppm):
        raise ConfigError(
            f"{path} was made for {roster.n} monitors, alpha {roster.alpha_ppm} ppm, prior {roster.prior_ppm} ppm",
            remedy="use the same settings, or another --data directory: certificates bind them",
        )
    try:
        signers = tuple(Signer((keys / f"monitor-{i}.seed").read_bytes()) for i in range(monitors))
    except OSError as error:
        raise StorageError(f"cannot read the monitors' keys in {keys}: {error.strerror}") from error
    if tuple(s.public_key for s in signers) != roster.keys:
        raise StorageCorrupt(f"the keys in {keys} are not those of {path / 'roster.json'}")
    return roster, signers
