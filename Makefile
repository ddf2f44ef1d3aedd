# Everything here is a thin name for a Python command; `make help` lists the names.
SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

# The distribution's Python, whatever else is on PATH: the virtual environment is made by the one that runs this.
PYTHON ?= /usr/bin/python3
pinned := --quiet --python-version 3.11 --generate-hashes --no-emit-index-url --no-emit-find-links \
  --custom-compile-command 'make lock'
# The toolchain's own environment: the virtual environment, Pulumi and its plugins on PATH.
in_env := $(PYTHON) -m toolchain exec --

.PHONY: help
help: ## List the targets
	@sed -nE 's/^([a-z-]+):.*## (.*)/\1\t\2/p' $(MAKEFILE_LIST) | expand -t 12

.PHONY: up
up: install ## Local region, stack, and a failover to watch
	$(in_env) python -m localregion start
	$(in_env) python -m stackctl up local --region-env local
	$(in_env) python -m localregion attach local
	$(in_env) python -m drills demo

.PHONY: drill
drill: install ## The quick set of drills on the local stack, with a report (three minutes)
	$(in_env) python -m drills suite --report .local/report

.PHONY: drills
drills: install ## Every drill three times, with a report (forty minutes)
	$(in_env) python -m drills suite --set all --runs 3 --report .local/report

.PHONY: preview
preview: install ## What `up` would change on the local region's stack
	$(in_env) python -m stackctl preview local --region-env local

.PHONY: down
down: ## Destroy the local stack and leave nothing of the region behind
	$(PYTHON) -m toolchain install
	status=0; $(in_env) python -m stackctl destroy local --region-env local || status=$$?; \
	  $(in_env) python -m localregion stop; exit $$status

.PHONY: check
check: ## Lint, types, unit, rendering and contract tests; needs no region
	@$(PYTHON) -m toolchain install --only check --only venv --only pulumi --only sources --only mycat
	$(in_env) python -m toolchain check

.PHONY: test
test: install ## What `check` does, and the tests on a region and on stacks
	$(PYTHON) -m toolchain install --only tests
	$(in_env) python -m toolchain check --everything

.PHONY: readme
readme: install ## README's section on AWS, command by command, on a local region (a quarter of an hour)
	$(in_env) python -m pytest tests/readme

.PHONY: lint
lint: ## Style, types, shell scripts, YAML, workflows
	@$(PYTHON) -m toolchain install --only venv
	$(in_env) python -m toolchain lint

.PHONY: install
install: ## Obtain Pulumi, its plugins, the Python environment, the source archives and the machines' image
	@$(PYTHON) -m toolchain install --meanwhile "python -c 'from localregion.image import ensure; ensure()'"

.PHONY: settings
settings: ## Write docs/settings.md and the stack files' schema from the descriptions in settings/
	@$(PYTHON) -m toolchain install --only venv
	$(in_env) python -m settings

.PHONY: lock
lock: ## Pin every Python package, with hashes: the program's, and all that the toolchain has
	$(in_env) uv pip compile $(pinned) --output-file requirements.lock requirements-dev.in
	$(in_env) uv pip compile $(pinned) --universal --constraint requirements.lock --output-file requirements.txt requirements.in
