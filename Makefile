# make run, make test and make check work on a fresh checkout: they set up .venv first.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
SOURCES := twistedws twisted tests examples docs bench

.PHONY: help setup run test test-reactors check coverage fmt format-check lint types floors reactor conformance conformance-full bench bench-asgi bench-wsgi bench-workers docs frameworks wsgi clean

help:
	@echo "make run               set up and serve the echo application on http://127.0.0.1:8000/"
	@echo "make test              set up and run all tests"
	@echo "make check             what CI runs: coverage and tests, format, lint, types, floors, reactor, conformance"
	@echo "make test-reactors     the process tests on Twisted's asyncio and epoll reactors, 10 minutes"
	@echo "make fmt               format, and mend what can be mended"
	@echo "make conformance       301 cases of the Autobahn|Testsuite, on three reactors; conformance-full: all 517, some 15 minutes"
	@echo "make reactor           Twisted's own test cases against our reactor, on both loops"
	@echo "make bench             CPU, memory and latency beside the peers', some 25 minutes; rewrites docs/performance.*"
	@echo "make bench-asgi        the same for ASGI servers alone, some 8 minutes; rewrites docs/performance-asgi.*"
	@echo "make bench-wsgi        the same for WSGI applications beside gevent-websocket, some 3 minutes; rewrites docs/performance-wsgi.*"
	@echo "make bench-workers     worker processes beside a single one, some 4 minutes; rewrites docs/performance-workers.md"
	@echo "make frameworks        the tests of ASGI frameworks, 2 minutes; rewrites docs/frameworks.md"
	@echo "make wsgi              WSGI applications beside gunicorn with gevent-websocket, a minute; rewrites docs/wsgi-side-by-side.md"
	@echo "make clean             remove what was set up and built"

setup: $(STAMP)

$(STAMP): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade pip
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

run: $(STAMP)
	$(BIN)/twistd -n --pidfile= twistedws --port 8000

test: $(STAMP)
	$(BIN)/python -m pytest tests/unit tests/wire tests/process

check: test coverage format-check lint types floors reactor conformance

coverage: $(STAMP)
	$(BIN)/coverage run -m pytest -q tests/unit tests/wire
	$(BIN)/coverage report --fail-under=95

fmt: $(STAMP)
	$(BIN)/ruff format $(SOURCES)
	$(BIN)/ruff check --fix $(SOURCES)

format-check: $(STAMP)
	$(BIN)/ruff format --check $(SOURCES)

lint: $(STAMP)
	$(BIN)/ruff check $(SOURCES)

types: $(STAMP)
	$(BIN)/mypy

floors: $(STAMP)
	$(BIN)/lint-imports

reactor: $(STAMP)
	$(BIN)/python tests/conformance/twisted_reactor.py

conformance: $(STAMP)
	$(BIN)/python tests/conformance/run.py
	$(BIN)/python tests/conformance/run.py --reactor epoll
	$(BIN)/python tests/conformance/run.py --reactor asyncio

test-reactors: $(STAMP)
	REACTOR=asyncio $(BIN)/python -m pytest tests/process
	REACTOR=epoll $(BIN)/python -m pytest tests/process

conformance-full: $(STAMP)
	$(BIN)/python tests/conformance/run.py --full --write-docs

bench: $(STAMP)
	$(BIN)/python bench/run.py --output bench/results/performance.json
	.tools/bench/venv/bin/python bench/report.py bench/results/performance.json

frameworks: $(STAMP)
	$(BIN)/python tests/process/frameworks/report.py -q

wsgi: $(STAMP)
	$(BIN)/python tests/process/wsgi/report.py -q

bench-asgi: $(STAMP)
	$(BIN)/python bench/run.py --only echo,idle --servers 'ours-asgi,ours-coroutine,uvicorn*,granian,daphne' --output bench/results/asgi.json
	.tools/bench/venv/bin/python bench/report.py bench/results/asgi.json --name performance-asgi

bench-wsgi: $(STAMP)
	$(BIN)/python bench/run.py --only echo,idle --servers 'ours-wsgi,ours-handler,gevent-websocket' --output bench/results/wsgi.json
	.tools/bench/venv/bin/python bench/report.py bench/results/wsgi.json --name performance-wsgi

bench-workers: $(STAMP)
	$(BIN)/python -m bench.workers

docs: $(STAMP)
	$(BIN)/python docs/generate.py
	$(BIN)/python docs/generate_asgi.py

clean:
	rm -rf $(VENV) .tools build dist .coverage .mypy_cache .ruff_cache .import_linter_cache .hypothesis tests/conformance/reports
