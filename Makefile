# make demo    install into .venv, train a character model for about a minute, show what came of it, and what each
#              setting of speed brings on this machine
# make test    every test that runs without a GPU (with one, those too); needs no root and no running service;
#              where PostgreSQL is installed (Debian: apt-get install postgresql) a real one is started for its tests
# make check   style, types, import floors, sizes; under a minute (make -k check shows the faults of all four)
# make format  write the style that `make check` wants
# make bench   hotloop beside other trainers, and what a step costs; writes docs/benchmarks.md (about an hour, most of it compiling)
# make clean   remove .venv and the tools' caches; runs under experiments/ stay
#
# PYTHON=python3.12   the interpreter to make .venv from (3.11 or newer)
# PIP_ARGS=...        more options for pip; on Linux without a GPU
#                     PIP_ARGS="--extra-index-url https://download.pytorch.org/whl/cpu" saves gigabytes of CUDA
# JOBS=2              test processes

PYTHON ?= python3
PIP_ARGS ?=
JOBS ?= 2
TESTS ?= tests
PROMPT ?= The

VENV := .venv
PY := $(VENV)/bin/python
INSTALL := $(PY) -m pip install --disable-pip-version-check --no-input $(PIP_ARGS) -c constraints.txt
CORE := $(VENV)/.installed-core
TEST := $(VENV)/.installed-test
BENCH := $(VENV)/.installed-bench

.PHONY: help demo test check style types floors sizes format bench clean
.DELETE_ON_ERROR:

help:
	@sed -n '/^#/!q; s/^# \{0,1\}//p' Makefile

demo: $(CORE)
	$(PY) -m hotloop train gpt --experiment-name demo training.max_steps=1500 training.eval_every=250 training.log_every=50
	@run=$$(ls -dt experiments/demo_* | head -n 1) && set -ex && \
	$(PY) -m hotloop runs && \
	$(PY) -m hotloop plot "$$run" && \
	$(PY) -m hotloop generate "$$run" --prompt "$(PROMPT)" && \
	$(PY) -m hotloop ladder gpt --minutes 1.5 --out "$$run"

test: $(TEST)
	OMP_NUM_THREADS=1 $(PY) -m pytest -n $(JOBS) $(TESTS)

check: style types floors sizes

style: $(TEST)
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .

types: $(TEST)
	$(PY) -m mypy

floors: $(TEST)
	$(VENV)/bin/lint-imports --no-logo

sizes: $(TEST)
	OMP_NUM_THREADS=1 $(PY) -m pytest -q tests/arch

format: $(TEST)
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

bench: $(BENCH)
	$(PY) bench/side_by_side.py --starts 3 --rounds 3 --json bench/results/cpu.json
	$(PY) bench/limit.py --store bench/results/limit.json
	$(PY) bench/overhead.py --store bench/results/overhead.json
	$(PY) bench/overhead.py --threads 2 --hidden 4096 --batch 256 --steps 60 --rounds 40 --store bench/results/overhead_large.json
	$(PY) bench/page.py

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

# The stamps make a second call quick; a change of the project's requirements installs again.
$(CORE): pyproject.toml constraints.txt | $(PY)
	$(INSTALL) -e .
	@touch $@

$(TEST): pyproject.toml constraints.txt | $(PY)
	$(INSTALL) -e ".[test]"
	@touch $(CORE) $@

$(BENCH): pyproject.toml constraints.txt | $(PY)
	$(INSTALL) -e ".[bench]"
	@touch $(CORE) $@

$(PY):
	@command -v "$(PYTHON)" >/dev/null 2>&1 || { \
	echo "hotloop needs Python 3.11 or newer, and '$(PYTHON)' was not found." >&2; \
	echo "  fix: install it, or name it: make $(MAKECMDGOALS) PYTHON=/path/to/python3.12" >&2; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	echo "hotloop needs Python 3.11 or newer; '$(PYTHON)' is $$("$(PYTHON)" --version 2>&1)." >&2; \
	echo "  fix: name a newer one: make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 1; }
	@"$(PYTHON)" -c 'import venv, ensurepip' 2>/dev/null || { \
	echo "'$(PYTHON)' cannot make virtual environments (its venv or ensurepip module is missing)." >&2; \
	echo "  fix: on Debian or Ubuntu, apt install python3-venv" >&2; exit 1; }
	"$(PYTHON)" -m venv --clear $(VENV) || { rm -rf $(VENV); exit 1; }
