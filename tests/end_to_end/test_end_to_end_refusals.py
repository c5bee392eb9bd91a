"""Bad input at the door of the command line: a sentence with cause and remedy, and the right exit code."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from running import Up, command, environment, run

from tocsin.config import Data, Server, Settings, Tools
from tocsin.errors import ConfigError
from tocsin.serve import open_server


def _refused(result, code, *says):
    assert result.returncode == code, result.stderr
    assert "Traceback" not in result.stderr
    for text in says:
        assert text in result.stderr


def test_a_port_in_use(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        _refused(run("up", "--data", tmp_path, "--port", port), 1, f"127.0.0.1:{port}", "--port")


def test_a_directory_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("in the way")
    _refused(run("up", "--data", tmp_path / "file" / "data", "--port", 0), 1, "cannot write", "--data")


def test_a_directory_in_use(tmp_path):
    with Up(tmp_path):
        _refused(run("up", "--data", tmp_path, "--port", 0), 1, "another tocsin is using")


def test_another_address_without_a_token(tmp_path):
    _refused(run("up", "--data", tmp_path, "--port", 0, "--host", "0.0.0.0"), 2, "token")


def test_a_token_that_no_header_can_carry(tmp_path):
    _refused(run("up", "--data", tmp_path / "d", "--port", 0, "--token", " "), 2, "server.token", "header")
    assert not (tmp_path / "d").exists()


@pytest.mark.parametrize("token", ["end ", "\ttab", "two\nlines", "bell\x07", "schl\u00fcssel"])
def test_further_tokens_that_no_header_can_carry(tmp_path, token):
    settings = Settings(server=Server(port=0, token=token), data=Data(dir=str(tmp_path / "d")))
    with pytest.raises(ConfigError, match=r"server\.token"):
        open_server(settings)


def test_a_file_of_tools_that_does_not_fit(tmp_path):
    file = tmp_path / "tools.toml"
    for content, says in [(None, "cannot read"), ('[effects]\nupload = "harmless"', "read, write, egress")]:
        if content is not None:
            file.write_text(content)
        settings = Settings(
            server=Server(port=0), data=Data(dir=str(tmp_path / "d")), tools=Tools(effects_file=str(file))
        )
        with pytest.raises(ConfigError) as error:
            open_server(settings)
        assert says in f"{error.value} {error.value.remedy}"
    assert not (tmp_path / "d").exists()


def test_nobody_there(tmp_path):
    _refused(run("agents", "--data", tmp_path), 4, "no tocsin is running", "tocsin up")
    _refused(run("agents", "--url", "http://127.0.0.1:9"), 4, "no tocsin answers")
    _refused(run("agents", "--url", "file:///etc/passwd"), 2, "not an HTTP address")


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("empty.csv", "", "empty.csv"),
        ("header.csv", "agent_id,seq,cpu\n", "no rows"),
        ("strange.csv", "who,when\na,1\n", "agent_id"),
        ("table.xls", "x", "no known kind"),
        ("twice.csv", "agent_id,seq,cpu\na,0,1\na,0,2\n", "seq"),
        ("half.parquet", "PAR1", "cannot be read"),
    ],
)
def test_tables_that_do_not_fit(tmp_path, name, content, says):
    (tmp_path / name).write_text(content)
    out = tmp_path / "out.csv"
    _refused(run("replay", tmp_path / name, "--predictions", out), 2, says)
    assert not out.exists()


def test_a_mapping_with_an_unknown_column_names_the_nearest(tmp_path):
    (tmp_path / "t.csv").write_text("agent_id,seq,cpu_load\na,0,1\na,1,2\n")
    columns = '[columns]\nagent = "agent_id"\nseq = "seq"\n'
    (tmp_path / "m.toml").write_text('name = "mine"\nfeatures = ["cpu_laod"]\n' + columns)
    _refused(run("replay", tmp_path / "t.csv", "--mapping", tmp_path / "m.toml"), 2, "cpu_laod", "cpu_load")


def test_predictions_that_cannot_be_written(tmp_path):
    (tmp_path / "t.csv").write_text("agent_id,seq,cpu\na,0,1\na,1,2\n")
    _refused(run("replay", tmp_path / "t.csv", "--predictions", tmp_path / "no" / "where.csv"), 2, "cannot write")


@pytest.fixture
def events(tmp_path):
    (tmp_path / "t.csv").write_text("agent_id,seq,cpu\na,0,1\na,1,2\n")
    return tmp_path / "t.csv"


def test_predictions_over_a_directory_are_refused_before_the_table_is_read(tmp_path):
    (tmp_path / "out").mkdir()
    _refused(run("replay", tmp_path / "absent.csv", "--predictions", tmp_path / "out"), 2, "is a directory")
    assert [entry.name for entry in tmp_path.iterdir()] == ["out"]


def test_predictions_under_a_name_that_is_too_long(events):
    _refused(run("replay", events, "--predictions", events.parent / ("x" * 300)), 2, "cannot write")


def test_predictions_to_a_full_device_leave_the_device_alone(events):
    _refused(run("replay", events, "--predictions", _device(events, "full", 7)), 1, "No space left")
    assert run("replay", events, "--predictions", _device(events, "null", 3)).returncode == 0
    for name in ("full", "null"):
        assert (events.parent / name).is_char_device()
        assert not (events.parent / f"{name}.part").exists()


def _device(events, name, minor):
    """A device node of our own where that is allowed, else a link to the machine's."""
    node = events.parent / name
    try:
        os.mknod(node, 0o666 | stat.S_IFCHR, os.makedev(1, minor))
        node.open("w").close()
    except OSError:
        node.unlink(missing_ok=True)
        node.symlink_to(f"/dev/{name}")
    return node


def test_predictions_through_a_link_keep_the_link(events):
    (events.parent / "kept.csv").write_text("old")
    (events.parent / "link.csv").symlink_to(events.parent / "kept.csv")
    assert run("replay", events, "--predictions", events.parent / "link.csv").returncode == 0
    assert (events.parent / "link.csv").is_symlink()
    assert (events.parent / "kept.csv").read_text().startswith("agent_id,seq,score,alarm\na,0,")


@pytest.fixture
def standard_output(tmp_path):
    """Standard output by a name of our own: were it replaced, the machine's would be whole."""
    (tmp_path / "out").symlink_to("/proc/self/fd/1")
    return tmp_path / "out"


def test_predictions_to_standard_output(events, standard_output):
    result = run("replay", events, "--predictions", standard_output)
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("agent_id,seq,score,alarm\na,0,")
    assert standard_output.is_symlink()


def test_predictions_to_standard_output_that_is_a_file(events, standard_output):
    with (events.parent / "all.txt").open("w") as out:
        arguments = command("replay", events, "--predictions", standard_output)
        subprocess.run(arguments, check=True, stdout=out, stderr=subprocess.DEVNULL, timeout=120, env=environment())
    lines = (events.parent / "all.txt").read_text().splitlines()
    assert lines[0] == "agent_id,seq,score,alarm"
    assert lines[3].startswith("2 events of 1 agent ")


def test_one_set_of_keys_certifies_one_history(tmp_path, events):
    kept = tmp_path / "kept"
    assert run("replay", events, "--data", kept).returncode == 0
    before = {path: path.read_bytes() for path in kept.rglob("*") if path.is_file()}
    events.write_text("agent_id,seq,cpu\nb,0,1\nb,1,2\n")
    _refused(run("replay", events, "--data", kept), 2, "not empty", "new or empty")
    assert {path: path.read_bytes() for path in kept.rglob("*") if path.is_file()} == before


def test_a_table_that_does_not_fit_leaves_no_directory(tmp_path):
    (tmp_path / "t.csv").write_text("who\na\n")
    _refused(run("replay", tmp_path / "t.csv", "--data", tmp_path / "kept"), 2, "agent_id")
    assert not (tmp_path / "kept").exists()


def test_a_recognised_unit_is_said_and_huge_values_pass_quietly(tmp_path):
    lines = [f"{agent},{1_700_000_000_000 + i},{'-' * (i % 2)}1e308" for i in range(40) for agent in "ab"]
    (tmp_path / "t.csv").write_text("\n".join(["agent_id,time,cpu", *lines]) + "\n")
    result = run("replay", tmp_path / "t.csv")
    assert result.returncode == 0, result.stderr
    assert result.stderr.splitlines() == ["time is taken as milliseconds since 1970"]


def test_certificates_that_are_none(tmp_path):
    _refused(run("verify", tmp_path / "absent.cert.json"), 2, "cannot read")
    (tmp_path / "empty.cert.json").write_text("")
    assert run("verify", tmp_path / "empty.cert.json").returncode == 3
    (tmp_path / "odd.cert.json").write_text('{"schema": "tocsin.certificate/1"}')
    result = run("verify", tmp_path / "odd.cert.json")
    assert result.returncode == 3
    assert "Traceback" not in result.stderr


def test_settings_that_do_not_exist(tmp_path):
    (tmp_path / "tocsin.toml").write_text("[server]\nprot = 1\n")
    _refused(run("config", cwd=tmp_path), 2, "prot", "port")


def test_an_empty_demo_directory_of_somebody_else(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    _refused(run("demo", "--fleet", "synthetic", "--agents", 20, "--data", tmp_path, "--no-browser"), 1, "not empty")
    assert (tmp_path / "thesis.txt").read_text() == "years of work"
    _refused(run("demo", "--fleet", "nonsense", "--data", tmp_path / "d"), 2, "nonsense")
