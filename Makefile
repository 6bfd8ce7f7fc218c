# Python 3.11 or newer and make are all a fresh machine needs. PYTHON=python3.12 make run picks another one.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export PIP_DISABLE_PIP_VERSION_CHECK = 1
# The tests wait more than they work; a file's tests share their servers.
# One that dies is named and ends the run: with another in its place pytest-xdist would wait for ever.
SIDE_BY_SIDE := -n 3 --dist loadfile --max-worker-restart 0
# make live FLOWISE=2.2.8, make live FLOWISE_MODE=queue: other releases, and runs by a worker.
FLOWISE ?=
FLOWISE_MODE ?=
# make chaos SHORT=--short, so bench and clients: small numbers, for CI; the documents stay as they are.
SHORT ?=
# make clients RECORD=--record, so clients-apps: the page of the clients is what this run finds.
RECORD ?=

.PHONY: help setup run test check fix live clients clients-apps browser pictures bench chaos fuzz docs lock sbom
.DEFAULT_GOAL := help

help: ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

# A Python that was named and is not the environment's: the environment is made anew.
SHOW_VERSION := -c 'import sys; print(sys.version)'
ifneq ($(origin PYTHON),file)
OTHER := $(shell test -x $(BIN)/python && test "$$($(BIN)/python $(SHOW_VERSION))" != "$$($(PYTHON) $(SHOW_VERSION))" && echo --clear)
endif
ifdef OTHER
.PHONY: $(VENV)/serving
endif

# Two marks, so that serving does not wait for what only tests need.
$(VENV)/serving: requirements-serve.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("Python 3.11 or newer is needed, and $(PYTHON) is " + sys.version.split()[0] + ": PYTHON=python3.12 make run picks another one")'
	$(PYTHON) -m venv $(OTHER) $(VENV)
	$(BIN)/pip install --quiet -r requirements-serve.txt
	$(BIN)/pip install --quiet --no-deps --editable .
	@touch $@

$(VENV)/testing: $(VENV)/serving requirements.txt requirements-dev.txt
	$(BIN)/pip install --quiet -r requirements.txt
	$(BIN)/pip install --quiet -r requirements-dev.txt
	@touch $@

setup: $(VENV)/testing ## install everything, including the test dependencies, into .venv

run: $(VENV)/serving ## install the server and run it on http://localhost:8000
	$(BIN)/python openai_compatible_server.py

test: setup ## install, then run all tests except those that need a real Flowise
	$(BIN)/python -m pytest -q --timeout 120 $(SIDE_BY_SIDE)

check: setup ## the gate: ruff, format, mypy strict, tests, branch coverage
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/coverage erase
	$(BIN)/coverage run -m pytest -q --timeout 120 $(SIDE_BY_SIDE)
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report --fail-under=95 --skip-covered --sort=cover
	$(BIN)/coverage report --fail-under=100 --include='$(PURE)' --format=total

fix: setup ## fix formatting and what ruff can fix
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# One client on one API is tried before the real Flowise, so that CI sees it; make clients tries them all.
live: setup ## install the real Flowise into .cache (minutes, once), then test against it; FLOWISE=2.2.8 for others
	FLOWISE=$(FLOWISE) FLOWISE_MODE=$(FLOWISE_MODE) $(BIN)/python -m pytest -q --timeout 600 -m live tests/live
	$(if $(FLOWISE)$(FLOWISE_MODE),,$(BIN)/python -m pytest -q --timeout 600 -m live tests/clients/flowise_test.py -k openai_js-responses)

# Those of the most users, for CI: all of them take a quarter of an hour, and as long to install.
MOST_USED := openai_python openai_js ai_sdk librechat librechat_config langchain_python browser websocket
ONLY_MOST_USED = $(addprefix tests/clients/,$(MOST_USED)) $(wildcard tests/clients/*_test.py) -k 'not heartbeats $(addprefix or ,$(MOST_USED))'
clients: setup ## install clients into .cache (minutes, once), try them and deploy/; RECORD=--record: docs/clients.md
	$(BIN)/python -m pytest -q --timeout 600 -m 'clients$(if $(SHORT), and not live)' -n 2 --dist loadfile --max-worker-restart 0 $(if $(SHORT),$(ONLY_MOST_USED),tests/clients) $(RECORD)
	$(BIN)/python -m pytest -q --timeout 300 -m clients tests/deploy
	PIPELINES_PYTHON=$$($(BIN)/python -m tests.pipelines.environment) $(BIN)/python -m pytest -q --timeout 300 -m 'clients or not clients' tests/pipelines tests/server/pipelines_test.py tests/server/pipelines_supervised_test.py
	$(if $(RECORD),$(BIN)/python docs/generate.py)

# Each is a server with a database of its own and a browser beside it: too heavy for CI, and one at a time.
clients-apps: setup ## install the applications of docs/clients.md into .cache (minutes, gigabytes, once), try them; RECORD=--record
	$(BIN)/pip install --quiet -r tests/browser/requirements.txt
	$(BIN)/python -m pytest -q --timeout 900 -m apps tests/clients $(RECORD)
	$(if $(RECORD),$(BIN)/python docs/generate.py)

browser: setup ## drive the page in Chromium (installed by the machine's package manager)
	$(BIN)/pip install --quiet -r tests/browser/requirements.txt
	$(BIN)/python -m pytest -q --timeout 300 -m browser tests/browser

pictures: setup ## retake the screenshots in docs/images, of the page and of a real Flowise
	$(BIN)/pip install --quiet -r tests/browser/requirements.txt
	PAGE_SHOTS=$(CURDIR)/docs/images $(BIN)/python -m pytest -q --timeout 300 -m browser tests/browser/pictures_test.py -k documentation
	PAGE_SHOTS=$(CURDIR)/docs/images $(BIN)/python -m pytest -q --timeout 600 -m live tests/live/pictures_test.py

bench: setup ## figures beside nginx and a textbook proxy, into docs/performance.md; what many keys do to each other, and requests to Redis
	$(BIN)/python -m benchmarks.serving $(or $(SHORT),--write docs)
	$(BIN)/python -m benchmarks.many_keys $(SHORT)
	$(BIN)/python -m benchmarks.scaling $(SHORT)

chaos: setup ## break Flowise, clients and workers in every way; write docs/reliability.md (10 minutes)
	$(BIN)/python -m tests.chaos $(or $(SHORT),--table docs/reliability.md)

fuzz: setup ## random and broken requests, messages and texts for a minute or two; FUZZ="--seconds 600" for longer
	$(BIN)/pip install --quiet -r tests/fuzz/requirements.txt
	$(BIN)/python -m tests.fuzz $(FUZZ)
	$(BIN)/python -m tests.chaos.fuzz $(FUZZ)
	OPENAPI_PHASES=examples,coverage,fuzzing,stateful $(BIN)/python -m pytest -q tests/server/openapi_test.py

docs: setup ## write the generated pages, and the documentation as a site into build/site; LINKS=external asks other hosts too
	$(BIN)/python docs/generate.py
	EXTERNAL_LINKS=$(if $(filter external,$(LINKS)),true,false) $(BIN)/mkdocs build --quiet

LOCK := $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --custom-compile-command "make lock"
lock: setup ## pin what requirements.in and pyproject.toml need, with hashes; LOCK_OPTIONS=--upgrade for newer ones
	$(LOCK) $(LOCK_OPTIONS) requirements.in --output-file requirements.txt
	$(LOCK) $(LOCK_OPTIONS) pyproject.toml --constraint requirements.txt --output-file requirements-serve.txt

sbom: setup ## install what serving needs by its hashes, list it in build/sbom.json (CycloneDX) and docs/licences.md
	$(PYTHON) -m venv --clear --without-pip build/serving
	$(BIN)/pip --python build/serving/bin/python install --quiet --require-hashes -r requirements-serve.txt
	$(BIN)/cyclonedx-py environment --pyproject pyproject.toml --output-reproducible --output-file build/sbom.json build/serving/bin/python
	$(BIN)/python docs/licences.py build/sbom.json

# Modules that touch neither network nor clock of their own: every branch is tested.
PURE := openai_adapter.py,*/flow/*.py,*/openai/*.py,*/responses/request.py,*/responses/fields.py,*/responses/*_items.py,*/responses/renderer.py,*/responses/compaction.py,*/flowise/overrides.py,*/flowise/human_input.py,*/flowise/sse.py,*/flowise/events.py,*/flowise/answer.py,*/flowise/failures.py,*/flowise/prediction.py,*/flowise/profiles.py,*/flowise/queue_mode.py,*/conversation/sessions.py
