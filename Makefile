# The same words on every machine, CI's included. Needs make, and Python 3.11, 3.12 or 3.13: the first that runs.
PYTHON ?= $(firstword $(foreach name,python3.11 python3.12 python3.13,$(shell $(name) -c 'print("$(name)")' 2>&-)) python3)
VENV := .venv
BIN := $(VENV)/bin

# What the demo and the tests run must not depend on what a machine can fetch, and calls nobody.
export HF_HUB_OFFLINE ?= 1
export DO_NOT_TRACK ?= 1
export PREFECT_SERVER_ANALYTICS_ENABLED ?= false
# Whoever asks Python to keep nothing that it compiled would have each of a hundred processes compile for three seconds.
unexport PYTHONDONTWRITEBYTECODE

# Most tests wait for a server; the files that share one stay together.
TEST_PROCESSES ?= 3

QUESTION := "What does the with statement do when an exception is raised?"

.PHONY: help demo test test-milvus test-pymilvus3 install lint lock reference milvus bench bench-long torture audit sbom \
	licences clean

help: ## List the targets
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

install: $(VENV)/installed ## Set up .venv from the lock file

# Nothing is compiled that is never imported: of 2 GB of packages, a night imports a small part.
PIP_INSTALL := $(BIN)/python -m pip install --disable-pip-version-check --no-compile --progress-bar off
# The lock files name everything, so that pip has nothing to decide, and takes no file but those that were published.
PIP_LOCKED := $(PIP_INSTALL) --no-deps --require-hashes

# torch comes after what it needs, from its own file, which says why.
$(VENV)/installed: requirements.lock requirements-torch.lock pyproject.toml
	$(PYTHON) -m venv $(VENV)
	@echo 'Installing some 200 packages into $(VENV): 2.1 GB on disk, more where torch brings CUDA; two to three minutes'
	$(PIP_LOCKED) --requirement requirements.lock
	$(PIP_INSTALL) --requirement requirements-torch.lock
	$(PIP_INSTALL) --no-deps --no-build-isolation --editable .
	$(BIN)/python -m pip check
	@touch $@

$(VENV)/installed-dev: requirements-dev.lock $(VENV)/installed
	$(PIP_LOCKED) --requirement requirements-dev.lock
	$(BIN)/python -m pip check
	@touch $@

$(VENV)/installed-bench: requirements-bench.lock $(VENV)/installed-dev
	$(PIP_LOCKED) --requirement requirements-bench.lock
	$(BIN)/python -m pip check
	@touch $@

demo: install ## Index the Python topics into an embedded Milvus, evaluate, ask
	@$(BIN)/python corpora/demo/write_topics.py
	@echo; echo '$$ nightloom run corpora/demo.toml'
	@$(BIN)/nightloom run corpora/demo.toml
	@echo; echo '$$ nightloom ask corpora/demo.toml $(QUESTION) --top-k 1'
	@$(BIN)/nightloom ask corpora/demo.toml $(QUESTION) --top-k 1
	@echo 'Next:'
	@echo '  source $(BIN)/activate'
	@echo '  nightloom ask corpora/demo.toml "your own question about Python"'
	@echo '  nightloom run corpora/demo.toml         # again: nothing changed, nothing is embedded or written'
	@echo '  nightloom evaluate corpora/demo.toml    # every question with its scores'
	@echo '  nightloom status corpora/demo.toml'
	@echo '  nightloom init ../my-docs               # then a project of your own: see README.md'

test: lint ## Linters, types, import contract, and every test that this machine can run
	$(BIN)/python -m pytest -n $(TEST_PROCESSES) --dist loadfile --no-loadscope-reorder

test-milvus: $(VENV)/installed-dev ## The tests that need a Milvus server, on the one that NIGHTLOOM_TEST_MILVUS names
	$(BIN)/python -m pytest -n $(TEST_PROCESSES) --dist loadfile --no-loadscope-reorder -m "milvus and not own_server"

# Before the packages of .venv on Python's path: one package of another version needs no second .venv, of gigabytes.
PYMILVUS3 := build/pymilvus3
ON_LITE = $(shell grep -lE "home: Home|nightloom\.index|open_connection|from pymilvus" tests/test_*.py)

$(PYMILVUS3)/installed: requirements-pymilvus3.lock $(VENV)/installed-dev
	rm -rf $(PYMILVUS3)
	$(PIP_LOCKED) --target $(PYMILVUS3) --requirement $<
	@touch $@

test-pymilvus3: $(PYMILVUS3)/installed ## The tests that ask Milvus Lite, with pymilvus 3
	PYTHONPATH=$(CURDIR)/$(PYMILVUS3) $(BIN)/python -m pytest -n $(TEST_PROCESSES) --dist loadfile --no-loadscope-reorder \
		-m "not milvus and not prefect and not browser" $(ON_LITE)

lint: $(VENV)/installed-dev ## ruff, mypy --strict, the import contract
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# In a venv of their own, so that their packages are not among those that they look at.
AUDIT := build/audit
AUDIT_TOOLS := pip-audit==2.10.1 cyclonedx-bom==7.5.0 pip-licenses==5.5.5

# `make lock UPGRADE=` keeps the versions that are locked, and adds only what pyproject.toml asks for anew.
UPGRADE ?= --upgrade
# For every platform and Python that this runs on, with the hash of every file that the index has of a version.
LOCK := $(BIN)/uv pip compile --quiet --universal --fork-strategy fewest --python-version 3.11 --generate-hashes \
	--no-emit-package torch --custom-compile-command "make lock" $(UPGRADE)
COMPILE := $(LOCK) --constraint constraints.txt --extra local --extra lite

lock: $(VENV)/installed-dev ## Renew the lock files
	$(COMPILE) --extra build --output-file requirements.lock pyproject.toml
	$(COMPILE) --extra build --extra dev --extra milvus --constraint requirements.lock \
		--output-file requirements-dev.lock pyproject.toml
	$(COMPILE) --extra bench --constraint requirements-dev.lock --output-file requirements-bench.lock pyproject.toml
	printf '%s\n' $(AUDIT_TOOLS) | $(LOCK) --constraint constraints.txt --output-file requirements-audit.lock -
	echo 'pymilvus>=3,<4' | $(LOCK) --no-deps --output-file requirements-pymilvus3.lock -
	sed -i.old '/^torch==/d' requirements-torch.lock && grep '^torch==' constraints.txt >> requirements-torch.lock
	rm -f requirements-torch.lock.old

reference: install ## Write the pages of docs/ that are made from the code
	$(BIN)/python -m nightloom.flows.reference

milvus: $(VENV)/installed-dev ## Start a real Milvus server here, without Docker; Ctrl+C ends it
	$(BIN)/python deployments/local_milvus.py

bench: $(VENV)/installed-bench ## Measure, and write docs/benchmarks.md
	$(BIN)/python benchmarks/page.py

bench-long: $(VENV)/installed-bench ## Measure what takes longer than half an hour, for the same page
	$(BIN)/python benchmarks/page.py --long

$(AUDIT)/installed: requirements-audit.lock
	$(PYTHON) -m venv $(AUDIT)/venv
	$(AUDIT)/venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes --requirement $<
	@touch $@

audit: $(AUDIT)/installed ## Known vulnerabilities of what the lock file names; asks a service in the network
	$(AUDIT)/venv/bin/pip-audit --requirement requirements.lock --requirement requirements-torch.lock \
		--no-deps --disable-pip --strict

sbom: install $(AUDIT)/installed ## Software bill of materials: build/audit/sbom.json (CycloneDX)
	$(AUDIT)/venv/bin/cyclonedx-py environment --pyproject pyproject.toml --output-reproducible \
		--output-file $(AUDIT)/sbom.json $(BIN)/python

licences: install $(AUDIT)/installed ## Licences of what is installed: build/audit/licences.md
	$(AUDIT)/venv/bin/pip-licenses --python $(BIN)/python --format markdown --with-urls --output-file $(AUDIT)/licences.md

torture: $(VENV)/installed-dev ## Kill 200 nights at random, on Milvus Lite, a server and the twins, and compare every row
	$(BIN)/python benchmarks/torture.py

clean: ## Remove what the demo and the tools wrote; .venv stays
	rm -rf data build .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache corpora/demo/topics
