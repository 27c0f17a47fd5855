# `make demo`, `make test` and `make check` do their own set-up; `make setup` alone takes seconds
# when nothing changed.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
IMAGES ?=
OUTPUT ?= demo-output
JOB ?=
ARGS ?=
RUNTIME_ENV := {"env_vars": {"PYTHONPATH": "lib"}, "excludes": ["/tests", "/docs", "/benchmarks", "/demo-output", "/.venv"]}

.PHONY: help setup demo test soak check lock submit clean
.DEFAULT_GOAL := help

help:
	@echo "make demo [IMAGES=folder]  encode, train, publish, evaluate and query, on this machine"
	@echo "make test                  all tests"
	@echo "make soak                  the tests that kill things, again and again"
	@echo "make check                 linters, types, import layers"
	@echo "make lock                  deploy/requirements.lock anew, from pyproject.toml"
	@echo "make submit JOB=refresh ARGS='...'   to the cluster at RAY_ADDRESS, by default localhost:8265"

setup: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] not in ((3, 11), (3, 12)))' \
		|| { echo "error: Motif needs Python 3.11 or 3.12; try make PYTHON=python3.11" >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade "pip>=24"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[dev]"
	touch $@

demo: setup
	$(BIN)/python -m jobs.demo --output "$(OUTPUT)" $(if $(IMAGES),--images "$(IMAGES)")

# First the tests that kill things, which take longest. A worker of pytest's that dies ends it all:
# with another in its place, the rest has been seen to wait for ever.
test: setup
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder --max-worker-restart 0 -m "not soak"

soak: setup
	$(BIN)/python -m pytest -m soak
	$(BIN)/python -m pytest tests/breaking/soak.py

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports

# The versions that clusters install, with hashes; Python 3.11 as on Ray's images.
lock: setup
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "uv>=0.5"
	$(BIN)/uv pip compile pyproject.toml --quiet --upgrade --python-version 3.11 \
		--python-platform x86_64-manylinux_2_28 --generate-hashes --no-header --no-annotate \
		--output-file deploy/requirements.lock

# Only what the job needs is uploaded, and each node finds it.
submit: setup
	@test -n "$(JOB)" || { echo "error: make submit JOB=refresh ARGS='--images ...'" >&2; exit 2; }
	RAY_ADDRESS="$${RAY_ADDRESS:-http://localhost:8265}" $(BIN)/ray job submit --working-dir . \
		--runtime-env-json '$(RUNTIME_ENV)' -- python -m jobs.$(JOB) $(ARGS)

clean:
	rm -rf $(VENV) demo-output
