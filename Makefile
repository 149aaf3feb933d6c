# `make demo` and `make test` are all that a new machine needs: Python >= 3.10, make, a network.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
TEST_PROCESSES ?= 2
OLDEST := .venv-oldest
OLDEST_PYTHON ?= python3.10
DEMO := runs/demo
GALLERY := runs/gallery
# The address of a package index with other builds of torch, such as those for processors only.
TORCH_INDEX ?=
OTHER_TORCH := $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX))

.PHONY: install demo test test-oldest slow check docs pictures gallery notebooks format clean
.DEFAULT_GOAL := help

help:
	@echo "make install   .venv with everything the other targets need; TORCH_INDEX=ADDRESS: see README"
	@echo "make demo      train on the built-in toy set, translate held-out images, write a report"
	@echo "make test      the tests, in two processes; TEST_PROCESSES=N"
	@echo "make test-oldest  the tests with the oldest versions that pyproject.toml allows, in .venv-oldest"
	@echo "make slow      the tests that take minutes"
	@echo "make check     format, lint, types, import contract, the site"
	@echo "make docs      the site, in build/site"
	@echo "make pictures  the pictures of the site, anew, from the run of \`make demo\`"
	@echo "make gallery   two runs and the pictures of the gallery, from them"
	@echo "make notebooks the notebooks of examples/, run anew"
	@echo "make format    let the formatter write"
	@echo "make clean     remove .venv, runs and caches"

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check $(OTHER_TORCH) -c constraints.txt -e '.[dev]'
	touch $@

demo: install
	test -d build/toy || $(BIN)/patchkin data toy build/toy
	$(BIN)/patchkin train semantic-relation --preset toy --data build/toy --run-dir $(DEMO) --overwrite
	$(BIN)/patchkin translate $(DEMO) build/toy/testA --output $(DEMO)/translated --overwrite
	$(BIN)/patchkin inspect $(DEMO) build/toy/testA/0000.png --point 32,32 --output $(DEMO)/inspection
	$(BIN)/patchkin evaluate $(DEMO) --data build/toy --protocol
	@echo "translated images: $(DEMO)/translated"
	@echo "report page:       $(DEMO)/report.html"

# The tests of a file share what was trained for them: they run in one process, in their order.
test: install
	$(BIN)/pytest -n $(TEST_PROCESSES) --dist loadfile

# Old versions warn of each other; what we should mend is an error in `make test`.
test-oldest: $(OLDEST)/.installed
	$(OLDEST)/bin/pytest -W default::DeprecationWarning -W default::FutureWarning

$(OLDEST)/.installed: pyproject.toml constraints-oldest.txt
	$(OLDEST_PYTHON) -m venv $(OLDEST)
	$(OLDEST)/bin/pip install --quiet --disable-pip-version-check $(OTHER_TORCH) -c constraints-oldest.txt -e '.[dev]'
	touch $@

slow: install
	$(BIN)/pytest -m slow

check: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/mkdocs build --strict --quiet

docs: install
	$(BIN)/mkdocs build --strict

pictures: demo
	$(BIN)/python docs/making/pictures.py $(DEMO) build/toy docs/pictures

gallery: install
	test -d build/toy || $(BIN)/patchkin data toy build/toy
	test -d build/farm || $(BIN)/patchkin data toy build/farm --world farm
	$(BIN)/patchkin train semantic-relation --preset toy --data build/farm --run-dir $(GALLERY)/farm-relation --overwrite
	$(BIN)/patchkin translate $(GALLERY)/farm-relation build/farm/testA --output $(GALLERY)/farm-relation/translated --overwrite
	$(BIN)/patchkin evaluate $(GALLERY)/farm-relation --data build/farm --protocol
	$(BIN)/patchkin train semantic-relation --preset toy --data build/toy --method.generator.norm instance --steps 600 --run-dir $(GALLERY)/norm --overwrite
	$(BIN)/patchkin translate $(GALLERY)/norm build/toy/testA --output $(GALLERY)/norm/translated --overwrite
	$(BIN)/patchkin translate horse2zebra build/toy/testA --output $(GALLERY)/shipped/translated --overwrite
	$(BIN)/python docs/making/gallery.py $(GALLERY) build/toy build/farm docs/pictures

notebooks: install
	$(BIN)/python docs/making/notebooks.py build/notebooks examples/*.ipynb

format: install
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf $(VENV) $(OLDEST) runs build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
