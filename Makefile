# Two commands set everything up by themselves: `make demo` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

# As many at once as there are cores; with Ray one by one, in order, and none after the first failure.
AT_ONCE := -n auto --maxprocesses 8
WITH_RAY := -p no:randomly -x -v -o console_output_style=times

.PHONY: setup demo test lint unit conformance api postgresql compat openapi docs cluster faults bench clean

setup: $(READY)

$(READY): requirements.lock pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	touch $(READY)

demo: setup
	$(BIN)/python examples/demo.py

# Everything that must hold before a change goes in.
test: lint
	$(BIN)/python -m pytest $(AT_ONCE) tests/unit tests/conformance tests/api tests/compat tests/docs
	$(BIN)/python -m pytest $(WITH_RAY) tests/cluster tests/faults

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

unit conformance api cluster: setup
	$(BIN)/python -m pytest tests/$@

# What needs no particular database once more, on a real PostgreSQL from a wheel.
postgresql: setup
	JAMJET_TEST_DATABASE=postgresql $(BIN)/python -m pytest $(AT_ONCE) tests/api
	JAMJET_TEST_DATABASE=postgresql $(BIN)/python -m pytest $(WITH_RAY) tests/cluster

# The documentation, as a site in build/site; its generated pages are made on the way.
docs: setup
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

# The long form of requests made from the OpenAPI document.
compat: setup
	JAMJET_COMPAT_EXAMPLES=500 $(BIN)/python -m pytest tests/compat

# The document in the repository, after a change of the API that is meant.
openapi: setup
	$(BIN)/python docs/generate.py

# The long form: each kind of process killed 15 times under load, on both databases.
faults: setup
	JAMJET_FAULTS=long $(BIN)/python -m pytest $(WITH_RAY) tests/faults tests/cluster/test_dedicated.py

bench: setup
	$(BIN)/python benchmarks/three_steps.py

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis
