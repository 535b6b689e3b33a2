# Two commands: `make demo` shows it, `make test` checks it. Both install what they need into .venv;
# `make test-browser` adds Debian's browser and Prometheus, for the tests that need them.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
GET := apt-get install --yes --quiet --no-install-recommends chromium prometheus

.PHONY: demo test test-browser check bench bench-peers bench-growth bench-memory bench-audience screenshots clean

$(VENV)/.core: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[cpu,dashboard]'
	touch $@

$(VENV)/.dev: $(VENV)/.core
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

demo: $(VENV)/.core
	$(BIN)/streamer demo

test: $(VENV)/.dev
	scripts/check

# What the tests of the live page and of the alert rules need of Debian; without them those are skipped.
test-browser:
	command -v chromium promtool > /dev/null || $(GET) || { apt-get update && $(GET); }

bench-audience: $(VENV)/.dev
	$(BIN)/python -m benchmarks.audience

bench: $(VENV)/.dev
	$(BIN)/python -m benchmarks

bench-peers: $(VENV)/.dev
	$(BIN)/python -m benchmarks.peers

bench-growth: $(VENV)/.dev
	$(BIN)/python -m benchmarks.growth --picture docs/images/growth.png

bench-memory: $(VENV)/.dev
	$(BIN)/python -m benchmarks.memory --minutes 10

screenshots: $(VENV)/.dev test-browser
	$(BIN)/python scripts/screenshots.py

clean:
	rm -rf $(VENV) build dist *.egg-info
