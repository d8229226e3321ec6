# `make` lists the targets. Settings are the variables of .env.example: on the command line
# (`make up BASE_PORT=18100 DATA_DIR=other`), in the environment, or in a file .env, in this order of precedence.

PYTHON ?= python3
SERVICES := user product order notification analytics

export PATH := $(CURDIR)/.venv/bin:$(PATH)
# Console scripts, unlike `python -m`, do not import from the current directory.
export PYTHONPATH := $(CURDIR)

# uv has its own certificates; the system's, which pip also uses, may include that of a company's proxy.
export UV_SYSTEM_CERTS := 1

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help up down demo bench test lock env-example openapi clean wheelhouse images compose-up compose-secrets compose-test

# Variables that are already set take precedence over .env.
define settings
	if [ -f .env ]; then commands=$$($(PYTHON) -m libs.env_file) || exit 1; eval "$$commands"; fi; \
	export DATA_DIR="$${DATA_DIR:-var}"; pid_file=$$DATA_DIR/quintet.pid
endef

# Sets pid. After a crash another program may have the same process id, so its command line is checked. Minimal Linux
# systems have no ps.
running = { pid=$$(cat "$$pid_file" 2>/dev/null) && { grep -qs libs.launcher "/proc/$$pid/cmdline" || \
	ps -p "$$pid" -o args= 2>/dev/null | grep -q libs.launcher; }; }

define check_python
	command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) was not found; try: make PYTHON=/path/to/python3.11" >&2; exit 1; }; \
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and f"Python 3.11 or newer is needed, and $(PYTHON) is " \
		f"{sys.version.split()[0]}; try: make PYTHON=/path/to/python3.11")'
endef

# $(call unless_installed,DIRECTORY,LOCK): continues if DIRECTORY is older than LOCK. `make up` in a second terminal
# waits for the installation of the first.
define unless_installed
	set -e; $(check_python); exec 9< $(2); $(PYTHON) -c 'import fcntl; fcntl.flock(9, fcntl.LOCK_EX)'; \
	if [ $(1)/.installed -nt $(2) ]; then exit 0; fi; \
	echo "Installing $(2) into $(1)"
endef

# $(call install,ENVIRONMENT,LOCK)
define install
	$(call unless_installed,$(1),$(2)); \
	$(PYTHON) -m venv --clear $(1); \
	$(1)/bin/python -m pip install -qq --disable-pip-version-check --require-hashes --requirement $(2); \
	touch $(1)/.installed
endef

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

up: .venv/.installed ## Start the five services with demo data; Ctrl-C stops them
	@set -e; $(settings); mkdir -p "$$DATA_DIR"; \
	if $(running); then echo "Already running on $$DATA_DIR (process $$pid); make down stops it." >&2; exit 1; fi; \
	echo $$$$ > "$$pid_file"; export FLASK_SKIP_DOTENV=1 LOG_DIR="$${LOG_DIR:-$$DATA_DIR/log}"; \
	exec python -m libs.launcher demo.seed

down: ## Stop what `make up` started with the same DATA_DIR
	@$(settings); \
	if ! $(running); then echo "Nothing is running on $$DATA_DIR."; exit 0; fi; \
	kill -TERM $$pid; tries=0; \
	while kill -0 $$pid 2>/dev/null; do \
		tries=$$((tries + 1)); \
		if [ $$tries -gt 100 ]; then echo "Process $$pid is still there after 10 seconds." >&2; exit 1; fi; \
		sleep 0.1; \
	done; \
	rm -f "$$pid_file"; echo "Stopped."

demo: .venv/.installed ## Walk through the running system, step by step
	@$(settings); exec python -m demo.walk

# It reads no .env, which may name databases that are in use.
bench: .venv/.installed ## Measure rate, latency, CPU and memory under load; FLOWS, CONC, ROUNDS, DURATION, URLS, PIDS, FLAME
	@exec python -m tests.load

test: .venv-tox/.installed .tox/npm/.installed ## Run every check and test, as CI does
	@.venv-tox/bin/tox run --no-list-dependencies

lock: .venv-tox/.installed ## Update the locked requirements; LOCK_FLAGS=--upgrade selects the newest releases
	@.venv-tox/bin/$(compile) setup.cfg --extra postgres --extra rabbitmq --extra redis --output-file requirements.txt
	@.venv-tox/bin/$(compile) setup.cfg --all-extras --constraint requirements.txt --output-file requirements-dev.txt
	@printf 'tox\ntox-uv\n' | .venv-tox/bin/$(compile) - --constraint requirements-dev.txt --output-file requirements-tox.txt
	@printf 'setuptools\n' | .venv-tox/bin/$(compile) - --output-file compose/requirements-build.txt
	@printf 'checkov\n' | .venv-tox/bin/$(compile) - --output-file requirements-checkov.txt
	@rm -rf quintet.egg-info

compile = uv pip compile --universal --python-version 3.11 --generate-hashes --quiet \
	--no-config --custom-compile-command "make lock" $(LOCK_FLAGS)

env-example: .venv/.installed ## Write .env.example from the declared settings
	@python -m demo.env_example > .env.example

openapi: .venv/.installed ## Write docs/openapi from the declared routes
	@set -e; export FLASK_SKIP_DOTENV=1; for service in $(SERVICES); do \
		flask --app $${service}_service.app openapi > docs/openapi/$$service.json; done

# The images have another Python and another C library than this machine, so the platform is given. Only zope-interface
# has no wheel for musl; it is built from source, with the requirements in requirements-build.txt.
wheelhouse: .venv-tox/.installed ## Download the packages of the images, so that they build without a network
	@set -e; for machine in x86_64 aarch64; do \
		.venv-tox/bin/uv pip compile --quiet --no-config --no-deps --generate-hashes --no-annotate --no-header \
			--python-version 3.13 --python-platform $$machine-unknown-linux-musl \
			requirements.txt compose/requirements-build.txt --output-file compose/wheelhouse/$$machine.txt; \
		.venv-tox/bin/pip download --quiet --disable-pip-version-check --no-deps --require-hashes \
			--implementation cp --python-version 3.13 --platform musllinux_1_2_$$machine \
			--requirement compose/wheelhouse/$$machine.txt --dest compose/wheelhouse; \
	done

compose := docker compose -f compose/compose.yaml

images: .venv-tox/.installed ## Build the image of each service, and its bill of materials beside it in build/
	@$(settings); $(compose) build
	@mkdir -p build; set -e; for name in $(SERVICES); do \
		.venv-tox/bin/tox exec --quiet -e containers -- syft scan --quiet --output spdx-json=build/quintet-$$name.spdx.json \
			docker:$$($(compose) config --images | grep -- "-$$name:" | head -n 1); \
	done

compose-up: ## Start the five services in containers; Ctrl-C stops them
	@$(settings); exec $(compose) up --build

compose-secrets: ## Generate the missing secrets of compose.production.yaml
	@$(check_python); $(PYTHON) compose/write_secrets.py compose/secrets

compose-test: .venv-tox/.installed ## Check the images and the compose files, and run the scenarios through the containers
	@.venv-tox/bin/tox run --no-list-dependencies -e containers

clean: ## Remove build products, and the embedded databases under DATA_DIR
	@$(settings); \
	if $(running); then echo "Still running on $$DATA_DIR (process $$pid); make down stops it." >&2; exit 1; fi; \
	for name in $(SERVICES); do rm -f "$$DATA_DIR/$$name".db*; done; rm -rf "$$DATA_DIR/run" "$$pid_file"; \
	if [ -d "$$DATA_DIR" ]; then rmdir "$$DATA_DIR" 2>/dev/null || echo "$$DATA_DIR holds other files and stays."; fi
	@rm -rf .venv .venv-tox .tox .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis build *.egg-info
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

.venv/.installed: requirements.txt
	@$(call install,.venv,requirements.txt)

# Only tox itself; uv installs requirements-dev.txt into each of its environments.
.venv-tox/.installed: requirements-tox.txt
	@$(call install,.venv-tox,requirements-tox.txt)

# Some tests run npm packages; without them the tests are skipped, and fail in CI.
.tox/npm/.installed: tests/npm/package-lock.json
	@$(call unless_installed,.tox/npm,$<); \
	rm -rf .tox/npm; mkdir -p .tox/npm; cp tests/npm/package*.json tests/npm/.npmrc .tox/npm; \
	if node -e 'process.exit(parseInt(process.versions.node) < 18 ? 1 : 0)' && npm ci --prefix .tox/npm; then touch $@; \
	else echo "Without Node.js 18 or newer, npm and its registry, the tests that need them are skipped." >&2; fi
