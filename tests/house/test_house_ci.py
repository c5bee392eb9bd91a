"""`.ci/run` fails where a step fails or the demonstration proves nothing, and says at the end what ran."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

MAKEFILE = """
check:
	@true
test:
	@{python} -m pytest -q -p no:cacheprovider -c /dev/null --rootdir . $(PYTEST) test_small.py
"""
# Plays `tocsin demo … --data DIR --json` and `tocsin verify FILE`: a certificate is valid if it says so.
TOCSIN = """#!/bin/sh
case "$1" in
demo) test "$2 $3 $4 $5 $7" = "--fleet synthetic --no-browser --data --json" || exit 2
      echo "$RESULT"
      for text in $VERDICTS; do mkdir -p "$6/certificates"; echo $text > "$6/certificates/$text.cert.json"; done ;;
verify) grep -q ^valid "$2" ;;
esac
"""


@pytest.fixture
def checkout(tmp_path: Path, repository: Path) -> Path:
    shutil.copytree(repository / ".ci", tmp_path / ".ci")
    (tmp_path / "Makefile").write_text(MAKEFILE.format(python=sys.executable))
    (tmp_path / "test_small.py").write_text("def test_a(): pass\ndef test_b(): pass\n")
    tool = tmp_path / ".venv" / "bin" / "tocsin"
    tool.parent.mkdir(parents=True)
    tool.write_text(TOCSIN)
    tool.chmod(0o755)
    return tmp_path


GOOD = '{"precision": {"hits": 3, "total": 3}, "lying_monitor": {"believed": false}}'


def run(checkout: Path, verdicts: str, result: str = GOOD) -> tuple[int, str]:
    environ = {
        key: value for key, value in os.environ.items() if key not in ("MAKEFLAGS", "MAKELEVEL", "PYTEST_ADDOPTS")
    }
    done = subprocess.run(
        [str(checkout / ".ci" / "run")],
        env={**environ, "VERDICTS": verdicts, "RESULT": result},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("result", "complaint"),
    [
        (GOOD.replace("false", "true"), "believed"),
        (GOOD.replace('"hits": 3', '"hits": 0'), "no verdict of the demonstration was right"),
        ("{}", "believed"),
    ],
)
def test_a_demonstration_that_shows_the_wrong_thing_fails(checkout: Path, result: str, complaint: str):
    code, output = run(checkout, "valid-1", result)
    assert code == 1
    assert complaint in output


def test_the_last_line_says_what_ran(checkout: Path):
    code, output = run(checkout, "valid-1 valid-2 valid-3")
    assert code == 0, output
    last = output.splitlines()[-1]
    assert last == "ci: ok: 2 tests ran (0 skipped), 3 certificates of the demonstration verified"


def test_a_demonstration_without_a_certificate_fails(checkout: Path):
    code, output = run(checkout, "")
    assert code == 1
    assert output.endswith("ci: the demonstration wrote no certificate\n")


def test_one_bad_certificate_fails(checkout: Path):
    assert run(checkout, "valid-1 forged valid-2")[0] == 1


def test_a_failing_test_fails(checkout: Path):
    (checkout / "test_small.py").write_text("def test_a(): raise ValueError\n")
    assert run(checkout, "valid-1")[0] != 0


def test_a_failing_check_fails(checkout: Path):
    makefile = checkout / "Makefile"
    makefile.write_text(makefile.read_text().replace("@true", "@false"))
    assert run(checkout, "valid-1")[0] != 0
