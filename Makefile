# `make` sets up what it needs in .venv; of the machine only the tests touch anything: they install Chromium.
# What runs until it is told to end takes the shell's place, so that whoever ends `make` ends it, too.
PYTHON ?= python3
DATABASE ?= postgresql
BIN := .venv/bin

SUDO := $(if $(filter 0,$(shell id -u)),,sudo)

.PHONY: demo run test chromium screenshots soak chaos bench bench-streams bench-million check format requirements clean

demo: .venv/runtime
	@exec $(BIN)/python -m app demo $(if $(ONCE),--once)

run: .venv/runtime
	@exec $(BIN)/python -m app serve

test: .venv/dev chromium
	$(BIN)/pytest -n 2 --dist loadgroup

# The browser that the tests of the pages look through: a package of the system, for pip has none.
chromium:
	@command -v chromium >/dev/null || command -v chromium-browser >/dev/null || \
		if command -v apt-get >/dev/null; then \
			$(SUDO) apt-get update -q && \
			$(SUDO) apt-get install -y -q --no-install-recommends chromium fonts-liberation; \
		else \
			echo "The tests of the pages need Chromium as \`chromium\` in the PATH: install it and try again." >&2; \
			exit 1; \
		fi

# The pictures in the README: the real pages, with what the sandbox makes.
screenshots: .venv/dev chromium
	PYTHONPATH=. $(BIN)/python docs/screenshots.py

# SOAK_ROUNDS is how long (60), SOAK_SEED what goes wrong.
soak: .venv/dev
	$(BIN)/pytest -m soak

# CHAOS_TASKS is how many edits (500), CHAOS_SEED what goes wrong.
chaos: .venv/dev
	CHAOS_TASKS=$${CHAOS_TASKS:-500} CHAOS_SEED=$${CHAOS_SEED:-$$(date +%N)} $(BIN)/pytest tests/acceptance/test_chaos.py

# Needs `wrk`; DATABASE=sqlite measures SQLite.
bench: .venv/dev
	PYTHONPATH=. $(BIN)/python bench/callbacks.py --database $(DATABASE)

# What 200 streams cost a web process.
bench-streams: .venv/dev
	PYTHONPATH=. $(BIN)/python bench/streams.py

# Minutes to fill the database, then how long each question takes.
bench-million: .venv/dev
	PYTHONPATH=. $(BIN)/python bench/million.py --database $(DATABASE)

check: .venv/dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/pip check

format: .venv/dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

requirements: .venv/dev
	$(BIN)/uv pip compile setup.cfg --quiet --universal --python-version 3.11 --generate-hashes \
		--custom-compile-command "make requirements" -o requirements.txt
	$(BIN)/uv pip compile setup.cfg --quiet --universal --python-version 3.11 --generate-hashes \
		--custom-compile-command "make requirements" --extra dev -c requirements.txt -o requirements-dev.txt

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .import_linter_cache

.venv/runtime: requirements.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements.txt
	@touch $@

.venv/dev: requirements-dev.txt .venv/runtime
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.txt
	@touch $@
