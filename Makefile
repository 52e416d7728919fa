# Everything starts here. Needs python3 (3.11 or newer) with pip and venv; PYTHON=python3.12 picks another.

PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
ARGS ?=

.PHONY: help setup chat test lint train sprites voices

help:
	@echo 'make chat     set up if need be, then talk, show pictures and have some drawn'
	@echo 'make test     set up if need be, then run the tests'
	@echo 'make lint     ruff and mypy'
	@echo 'make train    train the shipped weights again, from scratch'
	@echo 'make sprites  draw the toybox sprite sheet again'
	@echo 'make voices   record the toybox voices again (needs espeak-ng)'
	@echo 'make setup    the set-up alone: .venv with the pinned packages'
	@echo "ARGS='…' is handed to the command: make test ARGS='-k layout'"

setup: $(READY)

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
	  { echo 'unified needs Python 3.11 or newer as $(PYTHON); on Debian: apt-get install python3 python3-venv' >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
	  { echo 'Python lacks its venv module; on Debian: apt-get install python3-venv' >&2; exit 1; }
	@test -x $(BIN)/pip || { echo 'Setting up .venv'; $(PYTHON) -m venv --clear .venv; }
	@echo 'Installing the pinned packages into .venv (several minutes the first time)'
	@$(BIN)/python -m pip install --disable-pip-version-check --quiet \
	  --constraint constraints.txt --editable '.[dev]'
	@touch $@

chat: setup
	@$(BIN)/unified chat $(ARGS)

test: setup
	@$(BIN)/python -m pytest --numprocesses 2 --dist worksteal $(ARGS)

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

train: setup
	$(BIN)/unified train toybox $(ARGS)

sprites: setup
	$(BIN)/python -m unified.toybox.draw_sprites $(ARGS)

voices: setup
	$(BIN)/python -m unified.toybox.record_voices
