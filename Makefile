# The book in two commands: `make book` and `make test`. Both set up .venv by themselves.

VENV  := .venv
BIN   := $(VENV)/bin
READY := $(VENV)/.ready
HTML  := _build/html
BUILD := $(BIN)/jupyter-book build . -W -n --keep-going --quiet

# The first Python that is new enough. Override: make book PYTHON=/path/to/python
NEW_ENOUGH := import sys; sys.exit(sys.version_info < (3, 11))
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11 python; do \
  "$$p" -c '$(NEW_ENOUGH)' 2>/dev/null && { echo "$$p"; break; }; done)

# How far `make reseed` shifts the seeds
SEED ?= 7

.DEFAULT_GOAL := help
.PHONY: help book execute check reseed test packs rehearse alone lab twice lint mutate state certify prove bench figures
.PHONY: release serve clean html

help:  ## show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(READY): requirements.txt pyproject.toml
	@if [ -z "$(PYTHON)" ] || ! "$(PYTHON)" -c '$(NEW_ENOUGH)'; then \
	  echo "The book needs Python 3.11 or newer; none was found."; \
	  echo "Install one, or name it: make book PYTHON=/path/to/python3"; exit 1; fi
	@test -x $(BIN)/python || "$(PYTHON)" -m venv $(VENV)
	@echo "Installing the pinned requirements into $(VENV) (once; this takes some minutes)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -e .
	@touch $@

book: $(READY)  ## run the chapters that are out of date, then build the pages
	$(BIN)/python book/execute.py
	@$(MAKE) --no-print-directory html
	@echo "Open $(HTML)/index.html"

html: $(READY)
	@rm -rf $(HTML) _build/.doctrees
	$(BUILD)

execute: $(READY)  ## run every chapter again, two side by side, and print how long it took
	$(BIN)/python book/execute.py --all

reseed: $(READY)  ## run every chapter with its seeds shifted (SEED=7), and store nothing
	$(BIN)/python book/execute.py --reseed $(SEED)

check: $(READY)
	$(BIN)/python book/execute.py --check

test: $(READY)  ## run everything that continuous integration runs
	@$(MAKE) --no-print-directory -j 2 lint check
	@rm -rf $(HTML) _build/.doctrees  # the first of the tests builds them, while others run
	$(BIN)/python -m pytest --nbval-lax -n 2 --dist loadfile \
	  --no-loadscope-reorder --cov=invlib --cov-report=term --cov-report=json:_build/coverage.json \
	  --junitxml=_build/tests.xml

packs: html  ## make the archives that a lecturer hands out, in _build/packs
	$(BIN)/python book/hand_out.py

rehearse: packs  ## run every student notebook to its first gap, and both graders (as long as make alone)
	$(BIN)/python tests/run_packs.py

alone: html  ## run every notebook that the pages offer, in a new environment (about a quarter of an hour)
	$(BIN)/python tests/run_alone.py

lab: html  ## look at notebooks in JupyterLab, with and without its extension for MyST, and as VS Code draws them
	$(BIN)/python tests/run_jupyterlab.py
	$(BIN)/python tests/run_vscode.py

twice: html  ## build the pages again, with plain and current Sphinx, and compare all numbers
	$(BIN)/python tests/build_twice.py

lint: $(READY)  ## check the style of the Python files and of the chapters' cells, and the types of the library
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python tests/test_shape_of_chapters.py
	$(BIN)/mypy

mutate: $(READY)  ## plant faults in the mathematics, and see which ones the checks catch (long; tests/mutate.py goes on in pieces)
	$(BIN)/python tests/mutate.py

state: $(READY)  ## note the tests and the coverage of the last `make test` for the page "State of the book"
	$(BIN)/python book/note_tests.py

certify: $(READY)  ## prove by ball arithmetic that the pages show what they say, in seconds
	$(BIN)/python book/certificates/verify.py

prove: $(READY)  ## let Coq check the theorems behind the statements, where Coq is installed
	@$(BIN)/python proofs/prove.py

bench: $(READY)  ## measure invlib beside its peers (about a quarter of an hour, on an idle machine)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -r benchmarks/requirements.txt
	$(BIN)/python benchmarks/run.py

figures: $(READY)  ## draw all figures as PDF, with their arrays (runs every chapter; about a quarter of an hour)
	$(BIN)/python release/draw_figures.py

release: packs  ## put site, packs, packages and the book as a PDF into _build/release, and open everything once
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r release/requirements.txt
	$(BIN)/python release/make.py

serve: $(READY)  ## show the built pages on this machine at port 8000
	$(BIN)/python -m http.server 8000 --bind 127.0.0.1 --directory $(HTML)

clean:  ## remove what the tools made, but not .venv
	rm -rf _build build dist htmlcov .coverage .coverage.* .pytest_cache .ruff_cache .mypy_cache *.egg-info
