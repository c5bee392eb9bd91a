"""The data directory: one user at a time, keys that stay, settings that certificates bind."""

from __future__ import annotations

import resource
import signal
import stat

import pytest

from tocsin.errors import ConfigError, StorageCorrupt, StorageError
from tocsin.runtime.datadir import SALT_BYTES, SALT_SUM_BYTES, open_datadir, read_roster, write_durably

SETTINGS = {"monitors": 4, "alpha_ppm": 10_000, "prior_ppm": 10_000}


def test_keys_and_roster_survive_a_restart_and_are_private(tmp_path):
    first = open_datadir(tmp_path / "d", **SETTINGS)
    first.close()
    again = open_datadir(tmp_path / "d", **SETTINGS)
    assert again.roster == first.roster == read_roster(tmp_path / "d")
    assert tuple(s.public_key for s in again.signers) == again.roster.keys
    for key in (tmp_path / "d" / "keys").iterdir():
        assert stat.S_IMODE(key.stat().st_mode) == 0o600
    again.close()


def test_a_second_user_is_refused_until_the_first_leaves(tmp_path):
    first = open_datadir(tmp_path, **SETTINGS)
    with pytest.raises(StorageError, match="another tocsin"):
        open_datadir(tmp_path, **SETTINGS)
    first.close()
    open_datadir(tmp_path, **SETTINGS).close()


@pytest.mark.parametrize("change", [{"monitors": 7}, {"alpha_ppm": 5}, {"prior_ppm": 5}])
def test_settings_that_certificates_bind_cannot_change(tmp_path, change):
    open_datadir(tmp_path, **SETTINGS).close()
    with pytest.raises(ConfigError, match="4 monitors"):
        open_datadir(tmp_path, **{**SETTINGS, **change})
    open_datadir(tmp_path, **SETTINGS).close()  # and the lock was released


def test_a_swapped_key_is_noticed(tmp_path):
    open_datadir(tmp_path, **SETTINGS).close()
    (tmp_path / "keys" / "monitor-2.seed").write_bytes(bytes(32))
    with pytest.raises(StorageCorrupt, match="keys"):
        open_datadir(tmp_path, **SETTINGS)


def test_a_place_that_cannot_hold_a_directory_is_named(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageError, match="cannot write"):
        open_datadir(tmp_path / "file" / "d", **SETTINGS)


def test_roster_of_nothing_and_of_nonsense(tmp_path):
    with pytest.raises(StorageError, match="cannot read"):
        read_roster(tmp_path)
    (tmp_path / "roster.json").write_text("{]")
    with pytest.raises(StorageCorrupt, match="not JSON"):
        read_roster(tmp_path)


def test_durable_writes_replace_whole_files(tmp_path):
    target = tmp_path / "f"
    write_durably(target, b"one")
    write_durably(target, b"two", 0o600)
    assert target.read_bytes() == b"two"
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize("lost", ["journal.db", "ingest.db", "store.db"])
@pytest.mark.parametrize("how", ["deleted", "emptied"])
def test_a_database_that_is_gone_is_not_silently_begun_anew(tmp_path, lost, how):
    first = open_datadir(tmp_path, **SETTINGS)
    for name in ("journal.db", "ingest.db", "store.db"):
        (tmp_path / name).write_bytes(b"something")
    first.complete()
    first.close()
    open_datadir(tmp_path, **SETTINGS).close()
    (tmp_path / lost).unlink()
    if how == "emptied":
        (tmp_path / lost).touch()
    with pytest.raises(StorageCorrupt, match=lost):
        open_datadir(tmp_path, **SETTINGS)


@pytest.mark.parametrize("used", ["complete", "ingest.db", "certificates/v1.cert.json"])
def test_keys_are_never_made_over_others(tmp_path, used):
    open_datadir(tmp_path, **SETTINGS).close()
    (tmp_path / used).touch()
    before = {key.name: key.read_bytes() for key in (tmp_path / "keys").iterdir()}
    roster = (tmp_path / "roster.json").read_bytes()
    (tmp_path / "roster.json").unlink()
    with pytest.raises(StorageCorrupt, match=r"no roster\.json"):
        open_datadir(tmp_path, **SETTINGS)
    assert {key.name: key.read_bytes() for key in (tmp_path / "keys").iterdir()} == before
    (tmp_path / "roster.json").write_bytes(roster)
    (tmp_path / used).unlink()
    open_datadir(tmp_path, **SETTINGS).close()


@pytest.mark.parametrize("bytes_free", range(0, 700, 50))
def test_a_first_start_on_a_full_disk_is_begun_anew_once_there_is_room(tmp_path, bytes_free):
    """Under a limit on the size of files: the roster does not fit where the keys do; below 32 bytes no key does."""
    data = tmp_path / "d"
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (bytes_free, before[1]))
    try:
        open_datadir(data, **SETTINGS).close()
        whole = True
    except OSError:
        whole = False
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)
    roster = read_roster(data) if whole else None
    again = open_datadir(data, **SETTINGS)
    assert roster in (None, again.roster)
    assert not list(data.rglob("keys/*.tmp"))
    assert len(list((data / "keys").iterdir())) == len(again.roster.keys) + 1
    again.close()


@pytest.mark.parametrize("bit", range(0, (SALT_BYTES + SALT_SUM_BYTES) * 8, 13))
def test_a_flipped_bit_in_the_salt_is_found(tmp_path, bit):
    open_datadir(tmp_path, **SETTINGS).close()
    file = tmp_path / "keys" / "digest.salt"
    body = bytearray(file.read_bytes())
    body[bit // 8] ^= 1 << bit % 8
    file.write_bytes(body)
    with pytest.raises(StorageCorrupt, match="salt"):
        open_datadir(tmp_path, **SETTINGS)


def test_a_salt_of_before_there_were_checksums_is_taken(tmp_path):
    first = open_datadir(tmp_path, **SETTINGS)
    first.close()
    (tmp_path / "keys" / "digest.salt").write_bytes(first.salt)
    again = open_datadir(tmp_path, **SETTINGS)
    assert again.salt == first.salt
    again.close()


@pytest.mark.parametrize("salt", [None, b""])
def test_a_salt_that_is_gone_is_not_replaced(tmp_path, salt):
    open_datadir(tmp_path, **SETTINGS).close()
    (tmp_path / "keys" / "digest.salt").unlink()
    if salt is not None:
        (tmp_path / "keys" / "digest.salt").write_bytes(salt)
    with pytest.raises(StorageCorrupt, match="salt"):
        open_datadir(tmp_path, **SETTINGS)
