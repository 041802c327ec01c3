# Each target installs its dependencies once. `make` lists the targets.
# Requires GNU Make 3.81 (macOS) or later. VENV may be an existing virtualenv or conda prefix;
# packages are only added to it.
VENV ?= .venv
PYTHON ?= python3
# Used only if torch is not installed. May contain pip options:
#   make install TORCH='torch==2.13.0 --index-url https://download.pytorch.org/whl/cu126'
TORCH ?= torch==2.13.0
# Empty: the version that matches the installed torch.
TORCHVISION ?=
# Installed without its dependencies, because one needs an older NumPy. Empty: not installed.
MMDET ?= onedl-mmdetection==3.5.1
# What pip installs.
PROJECT ?= -e '.[test]'
# Test processes; more than cores, because some tests wait.
WORKERS ?= 3
# Examples per test of `make fuzz`.
FUZZ_EXAMPLES ?= 1000

PY := $(VENV)/bin/python
PIP := $(PY) -m pip --disable-pip-version-check
READY := $(VENV)/.mmkdml-ready
READY_DEV := $(VENV)/.mmkdml-ready-dev
# Prevents pip from replacing the installed torch.
CONSTRAINTS := $(VENV)/.mmkdml-constraints.txt

$(if $(word 2,$(VENV)),$(error VENV='$(VENV)': make cannot handle a path with spaces))

# Succeeds if the Python before it has the module $(1).
has = -c 'import sys; from importlib.util import find_spec; sys.exit(not find_spec("$(1)"))'

.DELETE_ON_ERROR:
.PHONY: help install demo test test-fast soak fuzz cluster-test check lint types layers duplicates \
    docs package release-check metafiles clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-14s %s\n", $$1, $$2}' Makefile

install: $(READY)  ## install mmkdml with all extras in VENV (.venv)

demo: $(READY)  ## generate data, train KD+ML v3, print a table of the members, draw panels
	$(PY) tools/demo.py

# Compiled once, also where PYTHONDONTWRITEBYTECODE makes each of many processes compile all files.
test: $(READY)  ## run all tests
	$(PY) -m compileall -q mmkdml tools benchmarks tests
	OMP_NUM_THREADS=1 $(PY) -m pytest -n $(WORKERS) --dist worksteal

test-fast: $(READY)  ## run the tests that are not marked slow
	OMP_NUM_THREADS=1 $(PY) -m pytest -n $(WORKERS) --dist worksteal -m 'not slow'

soak: $(READY)  ## kill and damage runs at random, and compare their results
	$(PY) tests/soak/soak.py

fuzz: $(READY)  ## test random files and settings, FUZZ_EXAMPLES=1000 per test
	OMP_NUM_THREADS=1 FUZZ_EXAMPLES=$(FUZZ_EXAMPLES) $(PY) -m pytest -n $(WORKERS) --dist worksteal \
	    -o faulthandler_timeout=0 tests/fuzz

# Ctrl-C stops the daemons, too.
cluster-test: $(READY)  ## test Slurm, torchrun and database servers on this machine
	MMKDML_CLUSTER_TEST=1 OMP_NUM_THREADS=1 $(PY) -m pytest -rs tests/cluster

check: lint types layers duplicates  ## run the next four targets

lint: $(READY_DEV)  ## check style and format (ruff)
	$(PY) -m ruff check
	$(PY) -m ruff format --check

types: $(READY_DEV)  ## check types (mypy)
	$(PY) -m mypy

layers: $(READY_DEV)  ## check the layers of imports (import-linter)
	$(VENV)/bin/lint-imports

duplicates: $(READY_DEV)  ## find duplicated code (pylint)
	$(PY) -m pylint --disable=all --enable=duplicate-code --recursive=y mmkdml benchmarks tools

docs: $(READY)  ## build the documentation in docs/_build/html
	$(PIP) install -c $(CONSTRAINTS) -e '.[docs]'
	$(PY) -m sphinx -W --keep-going -q docs docs/_build/html

package: $(READY_DEV)  ## build wheel and source distribution in dist
	$(PY) -m build
	$(PY) -m twine check --strict dist/*

release-check: $(READY_DEV)  ## build, check, and train with the wheel outside of the repository
	.ci/release $(PY)

metafiles: $(READY)  ## write model-index.yml and the metafiles of the configs
	$(PY) .ci/metafiles.py

clean:  ## delete caches and build outputs, but not VENV
	rm -rf build dist docs/_build docs/gallery mmkdml.egg-info .mypy_cache .pytest_cache \
	    .ruff_cache .import_linter_cache
	find configs mmkdml tests tools -name __pycache__ -prune -exec rm -rf {} +

# A torch installed for PYTHON is reused. --system-site-packages makes the packages of a system or
# conda Python visible, the .pth file those of a virtualenv.
$(PY):
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 10) or \
	    sys.exit("mmkdml needs Python 3.10 or later; $(PYTHON) is " + sys.version)'
	@if $(PYTHON) $(call has,torch); then \
	    echo "Reusing the torch of $(PYTHON)" && \
	    $(PYTHON) -m venv --system-site-packages $(VENV) && \
	    $(PYTHON) -c 'from importlib.util import find_spec; from pathlib import Path; \
	        print(Path(find_spec("torch").origin).parents[1])' > \
	        "$$($(PY) -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/torch.pth"; \
	else \
	    $(PYTHON) -m venv $(VENV); \
	fi

# torch first, so that no dependency selects another version; then the matching torchvision (0.15
# for torch 2.0, 0.16 for 2.1, ...). Without libGL, OpenCV requires its headless build.
$(READY): setup.py | $(PY)
	@$(PY) $(call has,torch) || $(PIP) install $(TORCH)
	@$(PY) -c 'from importlib.metadata import version; print("torch==" + version("torch"))' \
	    > $(CONSTRAINTS)
	@$(PY) $(call has,torchvision) || $(PIP) install -c $(CONSTRAINTS) \
	    $(if $(TORCHVISION),$(TORCHVISION),"torchvision==0.$$(( \
	    $$(cut -d. -f2 $(CONSTRAINTS)) + 15 )).*")
	$(PIP) install -c $(CONSTRAINTS) $(PROJECT)
	@$(PY) $(call has,mmdet) || [ -z "$(MMDET)" ] || $(PIP) install --no-deps $(MMDET)
	@$(PY) -c 'import cv2' 2> /dev/null || { $(PIP) install --force-reinstall --no-deps \
	    "opencv-python-headless==$$($(PY) -c \
	    'from importlib.metadata import version; print(version("opencv-python"))')" && \
	    $(PY) -c 'import cv2'; }
	@touch $@

$(READY_DEV): $(READY)
	$(PIP) install -c $(CONSTRAINTS) -e '.[dev]'
	@touch $@
