# bireme: one entry for everything. `make help` lists the targets; nothing needs to be installed first but make and git.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

PY := .venv/bin/python
PYTEST := .venv/bin/pytest

.PHONY: help setup run test check unit integration conformance guest bench docs fix clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' Makefile

setup: ## install what is missing and build .venv and guest/ (quick when nothing changed)
	@tools/setup

run: setup ## the main job: an engine, an image, a limited container, a page on a published port
	@tools/run

test: ## every lane: check, unit, integration, conformance, guest
	@tools/lanes check unit integration conformance guest

check: setup ## lint, format, types, import contracts, rules of the source tree
	@tools/lanes check

unit: setup ## unit tests: no root, no network
	@tools/lanes unit

integration: setup ## tests on this host's kernel (root)
	@tools/lanes integration

conformance: setup ## the docker CLI and docker-py against our engine (root)
	@tools/lanes conformance

guest: ## the integration lane inside an emulated Debian with systemd and cgroup v2
	@tools/lanes guest

bench: setup ## measure against the C floor and any peer in BIREME_PEER
	@$(PY) -m bench $(BENCH)

docs: setup ## check that every link and path named in the documents exists
	@$(PYTEST) -q tests/source/test_docs.py

fix: setup ## format and apply safe lint fixes
	@.venv/bin/ruff check --fix bireme bench tests
	@.venv/bin/ruff format bireme bench tests

clean: ## remove what set-up and the tests made in this directory
	@rm -rf .venv .run build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	@[[ ! -d guest ]] || $(MAKE) -s -C guest clean || true
