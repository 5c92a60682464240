# What people type here. It needs Python 3.11 or later and make; everything else is installed into .venv from the locks.

VENV := .venv
PYTHON := $(VENV)/bin/python
SUITABLE := import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))
# A user without a home (a container, a service) has nowhere to keep uv's cache.
UV = $(VENV)/bin/uv --quiet --no-python-downloads $(if $(shell test -w "$$HOME" && echo yes),,--no-cache)
# Settings as in production, with a secret of its own each time: what `check --deploy` judges.
PRODUCTION = ROOST_ENV=production ROOST_SECRET_KEY=$$($(PYTHON) -c 'import secrets; print(secrets.token_urlsafe(64))') \
	ROOST_ALLOWED_HOSTS=chat.example.com ROOST_PUBLIC_URL=https://chat.example.com
# The flows that use the JavaScript SDK; without Node they cannot run, the others can.
NODE_MODULES = $(if $(shell command -v npm),$(patsubst %/package-lock.json,%/node_modules/.package-lock.json,$(wildcard */*/package-lock.json)))
COMPILE = $(UV) pip compile --generate-hashes --no-annotate --no-header --universal --python-version 3.11 --upgrade
ARGS =

.DEFAULT_GOAL := help
.PHONY: help run test check format bench lock proto clean sound
.DELETE_ON_ERROR:

help:
	@echo 'make run     start everything and print where the page is'
	@echo 'make test    run the tests (ARGS="tests/models -x" for some of them)'
	@echo 'make check   formatter, linter, types, import contracts, migrations, deployment checks'
	@echo 'make format  let the formatter and the linter mend what they can'
	@echo 'make bench   measure, beside other servers'
	@echo 'make lock    lock the dependencies anew after a change of pyproject.toml'
	@echo 'make proto   generate the messages anew after a change of client.proto'
	@echo 'make clean   remove the environment and caches (data under .roost stays)'

run: $(VENV)/run.stamp
	@exec $(PYTHON) -m server.run --follow-parent

test: $(VENV)/dev.stamp $(NODE_MODULES)
	@exec $(PYTHON) -m pytest $(ARGS)

check: $(VENV)/dev.stamp
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m ruff check .
	$(PYTHON) -m mypy
	$(VENV)/bin/lint-imports
	$(PYTHON) -m server.embedded $(PYTHON) manage.py makemigrations --check --dry-run
	@echo 'manage.py check --deploy, with production settings'
	@$(PRODUCTION) $(PYTHON) -m server.embedded $(PYTHON) manage.py check --deploy --fail-level WARNING

format: $(VENV)/dev.stamp
	$(PYTHON) -m ruff format .
	$(PYTHON) -m ruff check --fix .

bench: $(VENV)/dev.stamp
	@exec $(PYTHON) -m bench $(ARGS)

lock: $(VENV)/dev.stamp
	$(COMPILE) pyproject.toml -o requirements.lock
	$(COMPILE) --constraint requirements.lock --extra dev pyproject.toml -o requirements-dev.lock
	echo uv | $(COMPILE) - -o requirements-uv.lock

# The version decides which protobuf library is the oldest that reads the result.
proto: $(VENV)/dev.stamp
	$(UV) tool run --from grpcio-tools==1.85.1 python -m grpc_tools.protoc -I . --python_out=. --pyi_out=. consumers/protocol/client.proto

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -not -path './.roost/*' -prune -exec rm -rf {} +

$(VENV): $(VENV)/run.stamp

%/node_modules/.package-lock.json: %/package-lock.json
	@cd $* && npm ci --no-audit --no-fund --silent

# What runs and what tests share one environment: the development lock holds everything that the other one holds.
$(VENV)/run.stamp: requirements.lock | sound
	@if [ $(VENV)/dev.stamp -nt requirements.lock ] && [ $(VENV)/dev.stamp -nt requirements-dev.lock ]; then :; else \
		rm -f $(VENV)/dev.stamp; \
		echo 'Installing the dependencies …'; \
		$(UV) pip sync --python $(PYTHON) --require-hashes requirements.lock; \
	fi
	@touch $@

$(VENV)/dev.stamp: requirements-dev.lock requirements.lock | sound
	@echo 'Installing the dependencies for development …'
	@$(UV) pip sync --python $(PYTHON) --require-hashes requirements-dev.lock
	@touch $@ $(VENV)/run.stamp

# An environment that runs: made once, and anew when its Python was removed or the folder has moved.
# Candidates are tried, not looked up: pyenv has shims for versions that are not there, Debian has Pythons without venv.
sound:
	@if [ -x $(VENV)/bin/uv ] && $(PYTHON) -c '' 2>/dev/null; then exit 0; fi; \
	if [ ! -w . ]; then \
		echo "roost: $$PWD is not writable for $$(id -un): clone into a folder that is yours." >&2; \
		exit 1; \
	fi; \
	for name in python3.11 python3.12 python3.13 python3.14 python3; do \
		if $$name -c '$(SUITABLE)' 2>/dev/null; then found=$$name; break; fi; \
	done; \
	if [ -z "$$found" ]; then \
		echo 'roost: Python 3.11 or later with its venv module is needed: install it (Debian: python3 and python3-venv).' >&2; \
		exit 1; \
	fi; \
	echo 'Making .venv …'; \
	rm -rf $(VENV) && \
	$$found -m venv $(VENV) && \
	$(PYTHON) -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-uv.lock
