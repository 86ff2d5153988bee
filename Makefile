# `make help` lists what there is. Everything runs in .venv, made on first use with PYTHON (3.11 or newer).
PYTHON ?= python3
VENV ?= .venv
CONSTRAINTS ?= constraints.txt
NOTEBOOK ?=
LAB ?=
TASK ?= circles
MODEL ?= srn
PROFILE ?= laptop
SEED ?= 0

BIN := $(VENV)/bin
STAMP := $(VENV)/installed-$(notdir $(CONSTRAINTS))
export OMP_NUM_THREADS ?= 1
# glibc: keep the memory of big tensors instead of returning it to the system at every step
export MALLOC_MMAP_THRESHOLD_ ?= 1073741824
export MALLOC_TRIM_THRESHOLD_ ?= 2147483648
export MALLOC_TOP_PAD_ ?= 67108864

.DEFAULT_GOAL := help
.PHONY: help install lab notebooks build test lint train tables readme bench

help:  ## Show this list
	@sed -nE 's/^([a-z]+):.*## (.*)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 20

install: $(STAMP)  ## Make the virtual environment (the other commands do it for you)

$(STAMP): pyproject.toml $(wildcard $(CONSTRAINTS))
	@command -v "$(PYTHON)" >/dev/null || { echo "No '$(PYTHON)' found. Say which Python to use: make PYTHON=/path/to/python3.11"; exit 1; }
	@"$(PYTHON)" -c 'import sys; ok = sys.version_info >= (3, 11); ok or sys.stdout.write("srnlib needs Python 3.11 or newer; $(PYTHON) is %d.%d. Say which to use: make PYTHON=python3.11\n" % sys.version_info[:2]); sys.exit(not ok)'
	test -x "$(BIN)/python" || "$(PYTHON)" -m venv "$(VENV)"
	"$(BIN)/python" -m pip install --quiet --constraint "$(CONSTRAINTS)" --editable ".[all]"
	@rm -f "$(VENV)"/installed* && touch "$@"  # what another file of constraints installed is gone

lab: $(STAMP)  ## Open the notebooks in JupyterLab (LAB=--no-browser on a remote machine)
	"$(BIN)/python" -m jupyterlab --LabApp.default_url=/lab/tree/notebooks $(if $(filter 0,$(shell id -u)),--allow-root) $(LAB)

notebooks: $(STAMP)  ## Execute every notebook without a browser and say how long each took (NOTEBOOK=03_circles: one)
	"$(BIN)/python" tools/notebooks.py run $(NOTEBOOK)

build: $(STAMP)  ## Rebuild and execute notebooks/*.ipynb from notebooks/py (NOTEBOOK=03_circles: one), then check them
	"$(BIN)/python" tools/notebooks.py build $(NOTEBOOK)
	"$(BIN)/python" -m pytest -q tests/test_hygiene.py

test: lint  ## Lint, unit and property tests, notebook hygiene, and every notebook cell by cell
	"$(BIN)/python" -m pytest -n2 --dist loadfile --durations=10 \
		--nbval-lax --nbval-current-env --nbval-cell-timeout=300 tests notebooks

lint: $(STAMP)  ## Check the style
	"$(BIN)/python" -m ruff check .

train: $(STAMP)  ## Train one model (TASK=circles MODEL=srn PROFILE=laptop SEED=0); the same command resumes
	"$(BIN)/python" -m srnlib train $(TASK) --model $(MODEL) --profile $(PROFILE) --seed $(SEED)

tables: $(STAMP)  ## Print the tables of results from data/results
	"$(BIN)/python" -m srnlib tables

readme: $(STAMP)  ## Renew the tables and the picture of README.md
	"$(BIN)/python" -m srnlib tables --write
	"$(BIN)/python" tools/key_picture.py

bench: $(STAMP)  ## Run every benchmark
	@for script in benchmarks/[!_]*.py; do echo "== $$script"; "$(BIN)/python" "$$script" || exit 1; done
