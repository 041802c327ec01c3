# Every target sets up what it needs; a second call finds it done. `make` lists the targets.
# Written for GNU Make 3.81 (macOS) and later. VENV may be an environment of yours (a virtualenv or
# a conda prefix): packages are added to it, nothing is deleted from it.
VENV ?= .venv
PYTHON ?= python3
# Used only where there is no torch yet. May hold pip options:
#   make install TORCH='torch==2.13.0 --index-url https://download.pytorch.org/whl/cu126'
TORCH ?= torch==2.13.0
# Empty: the one that belongs to the torch found.
TORCHVISION ?=
# Processes that share the tests; more than there are cores, because some tests wait.
WORKERS ?= 3
# Of each kind, in `make fuzz`.
FUZZ_EXAMPLES ?= 1000

PY := $(VENV)/bin/python
PIP := $(PY) -m pip --disable-pip-version-check
READY := $(VENV)/.mmkdml-ready
READY_DEV := $(VENV)/.mmkdml-ready-dev
# pip may not replace the torch found.
CONSTRAINTS := $(VENV)/.mmkdml-constraints.txt

$(if $(word 2,$(VENV)),$(error VENV='$(VENV)': make cannot handle a path with spaces))

# Does the Python before it have the module $(1)?
has = -c 'import sys; from importlib.util import find_spec; sys.exit(not find_spec("$(1)"))'

.DELETE_ON_ERROR:
.PHONY: help install demo test test-fast soak fuzz check lint types layers duplicates docs package clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-12s %s\n", $$1, $$2}' Makefile

install: $(READY)  ## mmkdml, its dependencies and the tests' in VENV (.venv)

demo: $(READY)  ## make data, train KD+ML v3 on it, print the members' table, draw panels
	$(PY) tools/demo.py

test: $(READY)  ## all tests
	OMP_NUM_THREADS=1 $(PY) -m pytest -n $(WORKERS) --dist worksteal

test-fast: $(READY)  ## the tests that are not marked slow
	OMP_NUM_THREADS=1 $(PY) -m pytest -n $(WORKERS) --dist worksteal -m 'not slow'

soak: $(READY)  ## kill and damage runs at random, and compare what they leave
	$(PY) tests/soak/soak.py

fuzz: $(READY)  ## made-up files and settings, FUZZ_EXAMPLES=1000 of each kind, other ones each time
	OMP_NUM_THREADS=1 FUZZ_EXAMPLES=$(FUZZ_EXAMPLES) $(PY) -m pytest -n $(WORKERS) --dist worksteal \
	    -o faulthandler_timeout=0 tests/fuzz

check: lint types layers duplicates  ## all of the next four

lint: $(READY_DEV)  ## ruff: style and format
	$(PY) -m ruff check
	$(PY) -m ruff format --check

types: $(READY_DEV)  ## mypy on mmkdml
	$(PY) -m mypy

layers: $(READY_DEV)  ## import-linter: imports point down
	$(VENV)/bin/lint-imports

duplicates: $(READY_DEV)  ## pylint: no code twice
	$(PY) -m pylint --disable=all --enable=duplicate-code --recursive=y mmkdml benchmarks tools

docs: $(READY)  ## build the documentation in docs/_build/html
	$(PIP) install -c $(CONSTRAINTS) -e '.[docs]'
	$(PY) -m sphinx -W --keep-going -q docs docs/_build/html

package: $(READY_DEV)  ## build wheel and source distribution in dist
	$(PY) -m build
	$(PY) -m twine check --strict dist/*

clean:  ## delete caches and build outputs, no environment
	rm -rf build dist docs/_build mmkdml.egg-info .mypy_cache .pytest_cache .ruff_cache .import_linter_cache
	find configs mmkdml tests tools -name __pycache__ -prune -exec rm -rf {} +

# A torch that PYTHON has is kept: the new environment sees it. --system-site-packages shows those
# of a system or conda Python, the .pth file those of a virtualenv.
$(PY):
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 10) or \
	    sys.exit("mmkdml needs Python 3.10 or later; $(PYTHON) is " + sys.version)'
	@if $(PYTHON) $(call has,torch); then \
	    echo "Keeping the torch of $(PYTHON)" && \
	    $(PYTHON) -m venv --system-site-packages $(VENV) && \
	    $(PYTHON) -c 'from importlib.util import find_spec; from pathlib import Path; \
	        print(Path(find_spec("torch").origin).parents[1])' > \
	        "$$($(PY) -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/torch.pth"; \
	else \
	    $(PYTHON) -m venv $(VENV); \
	fi

# torch first, so that nothing else chooses one; then the torchvision made for it (0.15 is torch
# 2.0's, 0.16 is 2.1's, ...). Without libGL, OpenCV's usual build cannot be imported.
$(READY): setup.py | $(PY)
	@$(PY) $(call has,torch) || $(PIP) install $(TORCH)
	@$(PY) -c 'from importlib.metadata import version; print("torch==" + version("torch"))' \
	    > $(CONSTRAINTS)
	@$(PY) $(call has,torchvision) || $(PIP) install -c $(CONSTRAINTS) \
	    $(if $(TORCHVISION),$(TORCHVISION),"torchvision==0.$$(( \
	    $$(cut -d. -f2 $(CONSTRAINTS)) + 15 )).*")
	$(PIP) install -c $(CONSTRAINTS) -e '.[test]'
	@$(PY) -c 'import cv2' 2> /dev/null || { $(PIP) install --force-reinstall --no-deps \
	    "opencv-python-headless==$$($(PY) -c \
	    'from importlib.metadata import version; print(version("opencv-python"))')" && \
	    $(PY) -c 'import cv2'; }
	@touch $@

$(READY_DEV): $(READY)
	$(PIP) install -c $(CONSTRAINTS) -e '.[dev]'
	@touch $@
