# make demo   install, then train, evaluate and visualize on a small synthetic dataset
# make test   install, then run the test suite
# make lint   install, then check style and types
# make docs   install MkDocs into .venv-docs, build the documentation site in site/
# make .venv  install only
SHELL := /bin/bash
PYTHON ?= $(shell command -v python3.11 || command -v python3)
REQUIREMENTS ?= requirements-dev.txt
VENV := .venv
PY := $(VENV)/bin/python
# Processes of the test suite; each imports torch and Detectron2.
JOBS ?= 2
UV := $(VENV)/bin/uv pip install -p $(PY)

# Spinning idle threads slow down other torch processes on the machine.
export OMP_WAIT_POLICY := PASSIVE
export GOMP_SPINCOUNT := 0

.PHONY: demo test lint format docs .venv

demo: .venv
	$(PY) tools/quickstart.py

test: .venv
	$(PY) -m pytest -n $(JOBS) --dist loadfile $(ARGS)

lint: .venv
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy

format: .venv
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

docs: .venv-docs/.ready
	NO_MKDOCS_2_WARNING=1 PYTHONPATH=.:tools .venv-docs/bin/mkdocs build

.venv-docs/.ready: requirements-docs.txt
	$(PYTHON) -m venv .venv-docs
	.venv-docs/bin/python -m pip install -q --disable-pip-version-check -r requirements-docs.txt
	@touch $@

.venv: $(VENV)/.ready

$(VENV)/.ready: $(REQUIREMENTS) setup.py pyproject.toml Makefile
	@echo "== Python environment in $(VENV) ($(PYTHON))"
	$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install -q --disable-pip-version-check uv
	@echo "== torch, Detectron2's dependencies, test tools (about 1 GB on first installation)"
	$(UV) -r $(REQUIREMENTS)
	@echo "== Detectron2 as pure Python"
	# The wheel is tagged for Python 3.10 because of a compiled module that this project does not use.
	$(UV) --no-deps --python-version 3.10 sal-detectron2==0.7.2
	$(UV) --no-deps --no-build-isolation -e .
	@touch $@
