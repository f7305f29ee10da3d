# Every target works on a fresh checkout: the first one sets up .venv.
PYTHON ?= python3
BIN := .venv/bin
export OMP_NUM_THREADS ?= 1
# Each test process would compile the project anew.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test test-slow bench-gpu lint golden schema docs constraints image image-test clean

demo: .venv/installed
	$(BIN)/fusiondistill run configs/quickstart.yaml

# Files side by side, in the order of tests/conftest.py. Many tests wait; those that are slow keep two cores at work.
SIDE_BY_SIDE := --dist loadfile --no-loadscope-reorder --numprocesses

test: .venv/installed
	$(BIN)/python -m pytest -m "not slow" $(SIDE_BY_SIDE) 3

test-slow: .venv/installed
	$(BIN)/python -m pytest -m slow --timeout 900 $(SIDE_BY_SIDE) 2

# On a machine with a CUDA GPU, at most 8 minutes: captured steps are checked, then measured. Elsewhere one line, code 2.
# Without .venv, in an environment that has torch and pydantic: python -m fusiondistill.bench_gpu
bench-gpu: .venv/installed
	$(BIN)/python -m fusiondistill.bench_gpu --json build/bench-gpu.json

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

.venv/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || \
		{ echo "Python 3.11, 3.12 or 3.13 is needed; choose one with: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	@$(PYTHON) -m venv .venv || { echo "python's venv module is missing; on Debian: apt-get install python3-venv"; exit 1; }
	$(BIN)/python -m pip install --quiet --disable-pip-version-check \
		--constraint constraints.txt --editable '.[dev]'
	@touch $@

# Golden results of what got a new version; refuses where a result changed and its version did not.
golden: .venv/installed
	$(BIN)/python tests/golden/write.py

# The JSON Schema of a config, for editors; a test says when it is out of date.
schema: .venv/installed
	$(BIN)/fusiondistill list config --schema >configs/config.schema.json

# The pages of docs/ as build/docs/index.html. A warning, such as a link to a page that is not there, is an error.
docs: .venv/docs
	$(BIN)/python -m sphinx --fail-on-warning --keep-going --quiet docs build/docs
	@echo "written: build/docs/index.html"

.venv/docs: .venv/installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check \
		--constraint constraints.txt --editable '.[docs]'
	@touch $@

# The newest releases that pyproject.toml admits, as they come in a fresh environment.
FRESH := build/constraints
constraints:
	rm -rf $(FRESH)
	$(PYTHON) -m venv $(FRESH)
	$(FRESH)/bin/python -m pip install --quiet --disable-pip-version-check --editable '.[dev,docs]'
	@{ sed -n '/^# Made/q; /^#/p' constraints.txt; \
		$(FRESH)/bin/python -c 'import platform, sys; print("# Made with Python", platform.python_version(), "for", sys.platform, platform.machine() + ".")'; \
		$(FRESH)/bin/python -m pip freeze --exclude-editable | grep '^[A-Za-z0-9._-]*=='; } >$(FRESH)/constraints.txt
	cp $(FRESH)/constraints.txt constraints.txt

# With docker or buildah. Another base image: make image BASE=...; words for the builder: make image WORDS='--build-arg ...'
image:
	cluster/image.sh build $(WORDS)

# Small runs in the image, as uid 1000, as a foreign uid, with a read-only root and with HOME=/. Not part of CI.
image-test:
	cluster/image.sh check

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache
