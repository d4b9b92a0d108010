# The same words on every machine, CI's included. Needs Python 3.11 or later, and make.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
MILVUS_PLATFORMS := (sys_platform == 'linux' and platform_machine == 'x86_64') or sys_platform == 'darwin'

# What the demo and the tests run must not depend on what a machine can fetch, and calls nobody.
export HF_HUB_OFFLINE ?= 1
export DO_NOT_TRACK ?= 1
export PREFECT_SERVER_ANALYTICS_ENABLED ?= false

# Most tests wait for a server; the files that share one stay together.
TEST_PROCESSES ?= 3

QUESTION := "What does the with statement do when an exception is raised?"

.PHONY: help demo test install lint lock reference milvus bench bench-long torture audit sbom licences clean

help: ## List the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

install: $(VENV)/installed ## Set up .venv from the lock file

# Nothing is compiled that is never imported: of 2 GB of packages, a night imports a small part.
PIP_INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile

$(VENV)/installed: requirements.lock pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(PIP_INSTALL) --requirement requirements.lock
	$(PIP_INSTALL) --no-deps --no-build-isolation --editable .
	@touch $@

$(VENV)/installed-dev: requirements-dev.lock $(VENV)/installed
	$(PIP_INSTALL) --requirement requirements-dev.lock
	@touch $@

$(VENV)/installed-bench: requirements-bench.lock $(VENV)/installed-dev
	$(PIP_INSTALL) --requirement requirements-bench.lock
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
	@echo '  cp corpora/template.toml corpora/docs.toml    # then your own folder: see README.md'

test: lint ## Linters, types, import contract, and every test that this machine can run
	$(BIN)/python -m pytest -n $(TEST_PROCESSES) --dist loadfile --no-loadscope-reorder

lint: $(VENV)/installed-dev ## ruff, mypy --strict, the import contract
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

COMPILE := CUSTOM_COMPILE_COMMAND="make lock" $(BIN)/pip-compile --quiet --strip-extras --no-emit-index-url --no-emit-find-links \
	--no-emit-trusted-host --no-emit-options --constraint constraints.txt

lock: $(VENV)/installed-dev ## Renew the lock files
	$(COMPILE) --upgrade --extra build --output-file requirements.lock pyproject.toml
	# A CPU build of torch at hand must not become everybody's.
	sed -i.old -E 's/^(torch==[0-9.]+)\+cpu$$/\1/' requirements.lock
	$(COMPILE) --extra build --extra dev --extra milvus --constraint requirements.lock \
		--output-file requirements-dev.lock pyproject.toml
	# The Milvus server has no build for every platform.
	sed -i.old -E "s/^(torch==[0-9.]+)\+cpu$$/\1/; s/^(milvus==[0-9.]+)$$/\1 ; $(MILVUS_PLATFORMS)/" requirements-dev.lock
	$(COMPILE) --extra bench --constraint requirements-dev.lock --output-file requirements-bench.lock pyproject.toml
	sed -i.old -E 's/^(torch==[0-9.]+)\+cpu$$/\1/' requirements-bench.lock
	rm -f requirements*.lock.old

reference: install ## Write the pages of docs/ that are made from the code
	$(BIN)/python -m flows.reference

milvus: $(VENV)/installed-dev ## Start a real Milvus server here, without Docker; Ctrl+C ends it
	$(BIN)/python deployments/local_milvus.py

bench: $(VENV)/installed-bench ## Measure, and write docs/benchmarks.md
	$(BIN)/python benchmarks/page.py

bench-long: $(VENV)/installed-bench ## Measure what takes longer than half an hour, for the same page
	$(BIN)/python benchmarks/page.py --long

# In a venv of their own, so that their packages are not among those that they look at.
AUDIT := build/audit
AUDIT_TOOLS := pip-audit==2.10.1 cyclonedx-bom==7.5.0 pip-licenses==5.5.5

$(AUDIT)/installed:
	$(PYTHON) -m venv $(AUDIT)/venv
	$(AUDIT)/venv/bin/python -m pip install --quiet --disable-pip-version-check $(AUDIT_TOOLS)
	@touch $@

audit: $(AUDIT)/installed ## Known vulnerabilities of what the lock file names; asks a service in the network
	$(AUDIT)/venv/bin/pip-audit --requirement requirements.lock --no-deps --disable-pip --strict

sbom: install $(AUDIT)/installed ## Software bill of materials: build/audit/sbom.json (CycloneDX)
	$(AUDIT)/venv/bin/cyclonedx-py environment --pyproject pyproject.toml --output-reproducible \
		--output-file $(AUDIT)/sbom.json $(BIN)/python

licences: install $(AUDIT)/installed ## Licences of what is installed: build/audit/licences.md
	$(AUDIT)/venv/bin/pip-licenses --python $(BIN)/python --format markdown --with-urls --output-file $(AUDIT)/licences.md

torture: $(VENV)/installed-dev ## Kill 200 nights at random, on Milvus Lite and on a real server, and compare every row
	$(BIN)/python benchmarks/torture.py

clean: ## Remove what the demo and the tools wrote; .venv stays
	rm -rf data build .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache corpora/demo/topics
