# Everything a contributor runs. `make` alone lists it. Needs make, git and a Python >= 3.11 with venv; nothing else.

VENV    := .venv
BIN     := $(VENV)/bin
STAMP   := $(VENV)/.complete
WORKERS ?= auto
PYTEST  ?=
UV      := 0.13.9

# The first interpreter that runs, is new enough and can make environments. `make venv PYTHON=/path/to/python` chooses.
USABLE  := import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))
PYTHON  ?= $(shell for p in python3.13 python3.12 python3.11 python3 python; do \
             $$p -c "$(USABLE)" >/dev/null 2>&1 && { command -v $$p; break; }; done)

.DEFAULT_GOAL := help
.PHONY: help venv test check style types layers generated demo bench lock clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

venv: $(STAMP) ## .venv with exactly the locked dependencies, and tocsin installed in place

$(STAMP): requirements/dev.lock pyproject.toml
	@test -n "$(PYTHON)" || { echo "make: no usable Python >= 3.11 with the venv module found; \
	install one (Debian: apt install python3 python3-venv) or name it: make $(MAKECMDGOALS) PYTHON=/path/to/python" >&2; exit 1; }
	@$(PYTHON) -c "$(USABLE)" || { echo "make: $(PYTHON) is older than 3.11 or lacks the venv module" >&2; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/dev.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

test: $(STAMP) ## all tests; e.g. make test PYTEST="-k config -x"
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile $(PYTEST)

check: style types layers generated ## everything that is known without running the tests

style: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP)
	$(BIN)/basedpyright

layers: $(STAMP)
	$(BIN)/lint-imports

generated: $(STAMP)
	$(BIN)/python tools/generate_protobuf.py --check

demo: $(STAMP) ## a fleet, an attack, a lying monitor and a certified verdict, on this machine
	$(BIN)/tocsin demo

bench: $(STAMP) ## measure everything and rewrite docs/benchmarks.md
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/peers.lock
	$(BIN)/python -m benchmarks.run_all
	$(BIN)/python tools/known_power.py

lock: $(STAMP) ## resolve the dependencies of pyproject.toml anew (UPGRADE=--upgrade to move versions)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv==$(UV)
	$(BIN)/uv pip compile pyproject.toml $(LOCKING) -o requirements/run.lock
	$(BIN)/uv pip compile pyproject.toml --group dev $(LOCKING) -o requirements/dev.lock
	$(BIN)/uv pip compile pyproject.toml --extra bls $(LOCKING) -o requirements/bls.lock
	$(BIN)/uv pip compile --group peers --constraint requirements/dev.lock $(LOCKING) -o requirements/peers.lock

LOCKING = --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
          --custom-compile-command "make lock" $(UPGRADE)

clean: ## remove what can be made again
	rm -rf $(VENV) .cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache build dist
	find src tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +
