# `make help` lists the targets. People and continuous integration run the same ones.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

PYTHON ?= python3
VENV := .venv
READY := $(VENV)/.setup-done
# What only the tests need. Stages do not see it: torch's companions import more the more there is.
TESTS := $(VENV)/tests
WITH_TESTS := PYTHONPATH="$(CURDIR)/$(TESTS)"

# dvc.yaml calls `python`: the environment's own comes first.
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)
# numpy's BLAS calls are small and run inside worker processes. torch has threads of its own (OMP_NUM_THREADS).
export OPENBLAS_NUM_THREADS ?= 1
# Nothing here reports home.
export DVC_NO_ANALYTICS := 1
export HF_HUB_DISABLE_TELEMETRY := 1
# Each stage is a program of its own, which starts sooner from bytecode.
unexport PYTHONDONTWRITEBYTECODE
# Never compile mmcv's operators: torchvision serves them.
export MMCV_WITH_OPS := 0

# Installs Debian's packages; never asks for a password.
SUDO := $(shell [ "$$(id -u)" = 0 ] || echo sudo -n)
export DEBIAN_FRONTEND := noninteractive

.PHONY: help setup repro test test-setup chromium slurm lint format types clean ablation-e-ups ablation-lwl-htc fusion-table table1 table2 table3

help: ## List the targets
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z0-9-]+):.*## (.*)/  make \1\t\2/' | expand -t 24

setup: $(READY) ## Create .venv with the locked packages and check it (minutes, 7 GB; instant when done)

$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or later is needed, this is " + sys.version.split()[0] + "; try: make setup PYTHON=python3.11")'
	$(VENV)/bin/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
	python -m pip install --disable-pip-version-check --no-input --no-compile --no-deps --requirement requirements.lock
	python -m pip install --disable-pip-version-check --no-input --no-compile --no-deps --editable .
# pip compiles with one core. Failures do not matter: some packages hold templates that are not Python.
	python -m compileall -q -j 0 -x '/tests?/' $(VENV)/lib >/dev/null || true
	python -m antvisionps.report.vega_script .dvc/tmp/vega.js
	antvisionps doctor
	@touch $@

repro: setup ## Run the whole pipeline and print PQ; PROFILE=facades takes profiles/facades.yaml
ifdef PROFILE
	antvisionps use profiles/$(PROFILE).yaml
endif
	dvc repro prepare
	$(call side_by_side,train_)
	$(call side_by_side,predict)
	dvc repro
	antvisionps results metrics/panoptic.json

# Without a GPU a stage that trains or predicts takes one core (runtime.cpu_threads).
AT_ONCE ?= $(shell command -v nvidia-smi >/dev/null && echo 1 || getconf _NPROCESSORS_ONLN)
# $(call side_by_side,NAME) runs the stages whose names begin so, AT_ONCE at a time. They depend on none of each other.
# If one fails, the others still finish: xargs would leave them behind at dvc's exit status, 255.
side_by_side = dvc stage list --name-only | sed -n '/^$(1)/p' | \
	xargs -P $(AT_ONCE) -I {} sh -c 'dvc --wait-for-lock repro --single-item {} || exit 1'

test: test-setup chromium slurm lint types ## Lint, check types, run the tests
	$(WITH_TESTS) OMP_NUM_THREADS=1 python -m pytest --numprocesses auto --maxprocesses 8 --dist loadfile --no-loadscope-reorder

# $(call debian,PACKAGES,TESTS) installs Debian's packages for those tests. Where it cannot, only CI stops.
debian = echo "Installing $(1) for the tests of $(2)"; \
	{ $(SUDO) apt-get update -qq && $(SUDO) apt-get install -y -qq --no-install-recommends $(1) >/dev/null; } \
	|| { echo "$(1) cannot be installed here: the tests of $(2) are skipped" >&2; [ -z "$(CI)" ]; }

chromium: ## Install Debian's Chromium for the tests of the report page, unless there is one (15 s)
	@if ! (command -v chromium || command -v chromium-browser || command -v google-chrome) >/dev/null; then \
		$(call debian,chromium,the report page); \
	fi

slurm: ## Install Debian's SLURM for the tests of its jobs, unless there is one (10 s)
	@if ! PATH="$$PATH:/usr/sbin" which munged slurmctld slurmd srun >/dev/null; then $(call debian,munge slurm-wlm,SLURM jobs); fi

test-setup: $(TESTS)/.done ## Install what only the tests need, apart from the other packages (1 min)

$(TESTS)/.done: requirements-test.lock $(READY)
	python -m pip install --disable-pip-version-check --no-input --quiet --no-compile --no-deps --upgrade --target $(TESTS) --requirement $<
	@touch $@

lint: test-setup ## Check style and format
	$(WITH_TESTS) python -m ruff check .
	$(WITH_TESTS) python -m ruff format --check .

format: test-setup ## Fix style and format
	$(WITH_TESTS) python -m ruff check --fix .
	$(WITH_TESTS) python -m ruff format .

types: test-setup ## Check types
	$(WITH_TESTS) python -m mypy

ablation-e-ups: setup ## Train E-UPS without and with BFP and LSH, 3 seeds each, into docs/ablations.md (resumable)
	antvisionps table 1 --seeds 1 2 3 --out docs/ablations.md

ablation-lwl-htc: setup ## Train LWL-HTC without and with uncertainty and DC head, 3 seeds each, into docs/ablations.md (resumable)
	antvisionps table 2 --seeds 1 2 3 --out docs/ablations.md

fusion-table: setup ## Train all ends with 3 seeds, fuse them, PQ and gain into docs/ablations.md (resumable)
	antvisionps table fusion --seeds 0 1 2 --out docs/ablations.md

table1: setup ## Run the report's table 1 (or 2, 3) as DVC experiments into docs/tables; PROFILE as for repro (resumable)
table2: setup
table3: setup
table1 table2 table3:
	antvisionps table $(@:table%=%)$(if $(PROFILE), --params profiles/$(PROFILE).yaml)

clean: ## Remove stage outputs and tool caches; the environment and DVC's cache stay
	rm -rf data/prepared data/models data/unfinished data/predictions data/routing data/calibration data/fused data/scores report
	rm -rf .mypy_cache .pytest_cache .ruff_cache .hypothesis build *.egg-info
	find . -path ./$(VENV) -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +
