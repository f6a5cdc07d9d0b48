# Everything begins here. `make serve` and `make test` need nothing but Python 3.11+ and make.
#
#   make serve      set up, get the embedded default model, serve on 127.0.0.1:8080   (ARGS="--port 9000" passes options on)
#   make test       set up and run the tests                                          (ARGS="-k name")
#   make clients    real client libraries, of Python and of Node.js, against running gateways
#   make check      formatting, lint, types
#   make simulate   the residency simulation at length
#   make bench      the data path beside nginx, in one run
#   make screenshots  the dashboard's pictures for the documentation, made anew with Chromium
#   make setup      only set up; `make lock` writes the lock files anew

VENV := .venv
BIN := $(VENV)/bin
# the first interpreter that is new enough
PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11 python; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo $$p; break; }; done)
# A user's own pip settings hold (index, certificates, proxy), but not those that would install elsewhere than into the venv.
PIP := PIP_USER=0 PIP_TARGET= PIP_DISABLE_PIP_VERSION_CHECK=1 $(BIN)/python -m pip
SOURCES := config providers gateway tests bench
# where there is no npm, the clients of Node.js are left out
NODE_PACKAGES := $(if $(shell command -v npm),tests/clients/node_modules/.package-lock.json)
OF_OPENAI2 := $(wildcard tests/clients/test_openai_*.py) tests/clients/test_llama_index.py tests/clients/test_instructor.py

.DEFAULT_GOAL := help
.PHONY: help setup serve test clients check fix simulate bench bench-peers screenshots lock model clean

help:
	@sed -n '3,11s/^# \{0,1\}//p' Makefile

setup: $(VENV)/.runtime

serve: $(VENV)/.runtime
	@exec $(BIN)/roundhouse serve --pull $(ARGS)

test: $(VENV)/.dev
	@$(BIN)/roundhouse pull || echo "no embedded model: the tests that need a real engine will be skipped"
	$(BIN)/python -m pytest $(ARGS)

# two environments: some libraries want the OpenAI client's former major version
clients: $(VENV)/.dev $(VENV)-clients/.made $(VENV)-clients-openai2/.made $(NODE_PACKAGES)
	@$(BIN)/roundhouse pull || echo "no embedded model: the tests that need a real engine will be skipped"
	$(VENV)-clients/bin/python -m pytest tests/clients $(ARGS)
	$(VENV)-clients-openai2/bin/python -m pytest $(OF_OPENAI2) $(ARGS)

check: $(VENV)/.dev
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/pyright

fix: $(VENV)/.dev
	$(BIN)/ruff check --fix $(SOURCES)
	$(BIN)/ruff format $(SOURCES)

simulate: $(VENV)/.dev
	ROUNDHOUSE_SIMULATION_RUNS=2000 $(BIN)/python -m pytest tests/residency/test_simulation.py -q $(ARGS)

bench: $(VENV)/.dev
	$(BIN)/python -m bench.proxies $(ARGS)

# other gateways, each in an environment of its own
bench-peers: $(VENV)/.dev
	@$(MAKE) -C bench peers

screenshots: $(VENV)/.dev
	$(BIN)/python -m tests.browser.screenshots $(ARGS)

# universal: the same lock for every platform and Python; without any index address
lock: $(VENV)/.dev
	uv pip compile pyproject.toml --group build --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
		--no-header -o requirements.lock
	uv pip compile pyproject.toml --group build --group dev --universal --python-version 3.11 --generate-hashes \
		--no-emit-index-url --no-header -o requirements-dev.lock
	for group in clients clients-openai2; do uv pip compile --group pyproject.toml:$$group --universal --python-version 3.11 \
		--generate-hashes --no-emit-index-url --no-header -o requirements-$$group.lock || exit 1; done
	cd tests/clients && npm install --package-lock-only --omit-lockfile-registry-resolved --ignore-scripts
	@# npm also writes where its authors take money
	$(BIN)/python -c 'import json, pathlib; path = pathlib.Path("tests/clients/package-lock.json"); \
		lock = json.loads(path.read_text()); [each.pop("funding", None) for each in lock["packages"].values()]; \
		path.write_text(json.dumps(lock, indent=2) + "\n")'

clean:
	rm -rf $(VENV) $(VENV)-clients $(VENV)-clients-openai2 tests/clients/node_modules roundhouse.egg-info bench/build

$(VENV)/.made:
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed: install it, or say where: make PYTHON=/path/to/python3"; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); \
		echo "The virtual environment could not be made; on Debian and Ubuntu: apt install python3-venv"; exit 1; }
	@touch $@

# --require-hashes: what is installed is what was locked, wherever pip gets it from
$(VENV)/.runtime: requirements.lock pyproject.toml | $(VENV)/.made
	@echo "Setting up (once) …"
	@$(PIP) install --quiet --require-hashes -r requirements.lock
	@# compat: a plain path entry; the default one imports a finder at every start of Python, engines included
	@PYTHONWARNINGS=ignore $(PIP) install --quiet --no-deps --no-build-isolation --no-index \
		--config-settings editable_mode=compat -e .
	@$(BIN)/python -m compileall -q config providers gateway   # also where PYTHONDONTWRITEBYTECODE is set: starts stay quick
	@touch $@

$(VENV)/.dev: requirements-dev.lock | $(VENV)/.runtime
	@echo "Setting up the tests' own needs (once) …"
	@$(PIP) install --quiet --require-hashes -r requirements-dev.lock
	@touch $@

# by uv where it is there and can: in seconds, and what both environments share is on the disk once; else by pip
$(VENV)-%/.made: requirements-%.lock | $(VENV)/.made
	@echo "Setting up $(VENV)-$* (once) …"
	@rm -rf $(VENV)-$*
	@{ command -v uv >/dev/null && uv venv --quiet --no-project --python $(BIN)/python $(VENV)-$* && \
		uv pip install --quiet --require-hashes --python $(VENV)-$* -r $<; } || { \
		rm -rf $(VENV)-$* && $(BIN)/python -m venv $(VENV)-$* && \
		PIP_USER=0 PIP_TARGET= PIP_DISABLE_PIP_VERSION_CHECK=1 $(VENV)-$*/bin/python -m pip install --quiet --require-hashes -r $<; }
	@touch $@

tests/clients/node_modules/.package-lock.json: tests/clients/package-lock.json
	@cd tests/clients && npm ci --ignore-scripts --no-audit --no-fund
	@touch $@
