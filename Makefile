# Every target works on a fresh checkout: the first one sets up .venv.
PYTHON ?= python3
BIN := .venv/bin
export OMP_NUM_THREADS ?= 1

.PHONY: demo test test-slow lint clean

demo: .venv/installed
	$(BIN)/fusiondistill run configs/quickstart.yaml

# Two files side by side: whole runs mostly wait for Ray.
TWO := --numprocesses 2 --dist loadfile

test: .venv/installed
	$(BIN)/python -m pytest -m "not slow" $(TWO)

test-slow: .venv/installed
	$(BIN)/python -m pytest -m slow --timeout 900 $(TWO)

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

.venv/installed: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || \
		{ echo "Python 3.11, 3.12 or 3.13 is needed; choose one with: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	@$(PYTHON) -m venv .venv || { echo "python's venv module is missing; on Debian: apt-get install python3-venv"; exit 1; }
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache
