# make demo: everything from nothing to a scored report. make test: everything to a green test run.
PYTHON ?= python3
BIN := .venv/bin
DEMO := outputs/demo
export NO_ALBUMENTATIONS_UPDATE := 1

.PHONY: setup demo test lint docs notebooks format clean

setup: .venv/installed

.venv/installed: requirements.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' || \
		{ echo "error: $$($(PYTHON) --version) found, Python 3.11 to 3.13 is needed: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 2; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	touch $@

.venv/installed-dev: requirements-dev.txt .venv/installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	touch $@

# Phase contrast -> nuclei on simulated cells: train, predict new fields, score the test split.
demo: setup
	rm -rf $(DEMO)
	$(BIN)/python train.py run=demo logger=csv trainer.max_time=2m
	$(BIN)/python -m vfn.data.simulated --output $(DEMO)/new_fields --fields 2 --first-seed 1000 --channels phase
	$(BIN)/python predict.py ckpt=$(DEMO)/checkpoints/best.ckpt input=$(DEMO)/new_fields output=$(DEMO)/new_stains
	$(BIN)/python evaluate.py ckpt=$(DEMO)/checkpoints/best.ckpt output=$(DEMO)

test: .venv/installed-dev
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

lint: .venv/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	! git grep -nE '^(<<<<<<<|>>>>>>>) ' # left of a merge, in whatever kind of file

# The pages of docs/ as a site: open site/index.html. A dead link or anchor is an error.
docs: .venv/installed-dev
	$(BIN)/sphinx-build --quiet --fail-on-warning --keep-going --nitpicky --fresh-env -d site/.doctrees docs site
	rm -rf jupyter_execute # where myst-nb puts notebooks that it does not run

# Runs the notebooks of docs/ anew, outputs and all; a few minutes.
notebooks: .venv/installed-dev
	cd docs/notebooks && ../../$(BIN)/python run.py

format: .venv/installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf .venv outputs site .pytest_cache .mypy_cache .ruff_cache .hypothesis
