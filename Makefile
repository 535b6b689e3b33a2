# Two commands: `make demo` shows it, `make test` checks it. Both install what they need into .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test test-browser check bench bench-peers bench-growth bench-memory clean

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
	command -v chromium promtool > /dev/null || apt-get install -y --no-install-recommends chromium prometheus

bench: $(VENV)/.dev
	$(BIN)/python -m benchmarks

bench-peers: $(VENV)/.dev
	$(BIN)/python -m benchmarks.peers

bench-growth: $(VENV)/.dev
	$(BIN)/python -m benchmarks.growth --picture docs/images/growth.png

bench-memory: $(VENV)/.dev
	$(BIN)/python -m benchmarks.memory --minutes 10

clean:
	rm -rf $(VENV) build dist *.egg-info
