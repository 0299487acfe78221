# From a fresh clone: `make test`, `make bench` or `make demo`.  Needs Python >= 3.11 with venv and headers, a C compiler and make.
#   make test ARGS="-k stream"    arguments for pytest (likewise for bench, race and demo)
#   make test PYTHON=python3.13   the interpreter that .venv is made with, once
#   make test CC=clang            another compiler: rebuilds
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
ARGS ?=

# The directories are in the list so that a removed file counts as a change.
SOURCES := $(shell find csrc src/fastlstm -not -name '__pycache__' -not -name '*.pyc') \
	setup.py pyproject.toml MANIFEST.in README.md LICENSE
C_SOURCES := $(shell find csrc tests examples/c -name "*.[ch]")
BUILD_ENVIRONMENT := CC=$(CC) CFLAGS=$(CFLAGS) LDFLAGS=$(LDFLAGS) FASTLSTM_WERROR=$(FASTLSTM_WERROR)

.DEFAULT_GOAL := venv
.PHONY: venv test campaign mutants bench race docs-tables demo lint format sdist wheel wheels test-wheels libfastlstm clean FORCE

venv: $(VENV)/.installed

# One process a core, up to four: tests measure memory, and start children and threads of their own.
test: venv
	$(BIN)/python -m pytest --numprocesses=auto --maxprocesses=4 --dist=worksteal $(ARGS)

# Looks for what no test knows: EFFORT times as long as in a run of the tests (see tests/campaign/__init__.py).
campaign: EFFORT ?= 300
campaign: venv
	FASTLSTM_CAMPAIGN=$(EFFORT) $(BIN)/python -m pytest --numprocesses=auto --dist=worksteal \
		-o faulthandler_timeout=0 tests/campaign $(ARGS)
	$(BIN)/python -m tests.campaign.sanitized address
	$(BIN)/python -m tests.campaign.sanitized thread

# Faults on purpose, one at a time in a copy of the tree: which of them no test notices.  About a minute each.
mutants: venv
	$(BIN)/python tools/mutants.py $(ARGS)

bench: venv
	$(BIN)/python -m benchmarks.run $(ARGS)

race: venv
	$(BIN)/python -m benchmarks.race $(ARGS)

# The tables of docs/speed.md and of the README, from the stored results of the race.
docs-tables: venv
	$(BIN)/python -m benchmarks.docs_tables

# Trains a character-level language model on the text of Python's own standard library: some minutes.
demo: venv
	$(BIN)/python -m examples.charlm $(ARGS)

lint: venv
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m mypy.stubtest fastlstm._core
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/cython-lint src/fastlstm
	$(BIN)/clang-format --dry-run --Werror $(C_SOURCES)
	$(BIN)/check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml
	$(BIN)/check-jsonschema --builtin-schema vendor.dependabot .github/dependabot.yml
	$(BIN)/check-jsonschema --builtin-schema vendor.github-issue-config .github/ISSUE_TEMPLATE/config.yml
	$(BIN)/check-jsonschema --builtin-schema vendor.github-issue-forms .github/ISSUE_TEMPLATE/bug.yml \
		.github/ISSUE_TEMPLATE/wish.yml
	$(BIN)/check-jsonschema --builtin-schema vendor.citation-file-format CITATION.cff
	$(BIN)/zizmor --quiet --offline .github

# What lint only checks.
format: venv
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(C_SOURCES)

sdist: venv
	$(BIN)/python -m build --no-isolation --sdist

# Source archive first, then the wheel from it.
wheel: venv
	$(BIN)/python -m build --no-isolation

# The wheels of all systems, made here with zig, each checked: make wheels ARGS="win_amd64 --twice".
wheels: venv
	$(BIN)/python tools/requirements.py wheels > $(VENV)/wheels.txt
	$(BIN)/python -m pip install --quiet --requirement $(VENV)/wheels.txt
	$(BIN)/python -m tools.wheels.make_wheels dist/wheels $(ARGS)

# The C tests on other machines, under emulators where need be; and the wheels with each Python that is here.
test-wheels: venv
	$(BIN)/python tools/requirements.py wheels > $(VENV)/wheels.txt
	$(BIN)/python -m pip install --quiet --requirement $(VENV)/wheels.txt
	$(BIN)/python -m tools.wheels.run_wheels dist/wheels $(ARGS)

# The C core as a static and a shared library, with its header and files for pkg-config and CMake.
PREFIX ?= $(CURDIR)/build/libfastlstm
libfastlstm:
	$(PYTHON) -m tools.make_library "$(PREFIX)"

# Everything but the environments of the race's peers, which take long to fetch.
clean:
	rm -rf $(VENV) build dist src/fastlstm.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .benchmarks
	find src benchmarks tests tools -name '.envs' -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/.requirements: pyproject.toml tools/requirements.py
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "fastlstm needs Python >= 3.11, \
	got %s (%s): set PYTHON=" % (sys.version.split()[0], sys.executable))'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python tools/requirements.py test bench examples dev > $(VENV)/requirements.txt
	$(BIN)/python -m pip install --quiet --requirement $(VENV)/requirements.txt
	$(BIN)/python tools/requirements.py test-torch > $(VENV)/requirements.txt
	$(BIN)/python -m pip install --quiet --requirement $(VENV)/requirements.txt || \
		echo "torch or keras cannot be installed here: the tests that compare with them are skipped" >&2
	@touch $@

$(VENV)/.environment: FORCE
	@mkdir -p $(VENV)
	@echo '$(BUILD_ENVIRONMENT)' | cmp -s - $@ || echo '$(BUILD_ENVIRONMENT)' > $@

# build/ keeps the objects that are still good; build/lib* could keep a file that is no longer in the package.
$(VENV)/.installed: $(VENV)/.requirements $(VENV)/.environment $(SOURCES)
	rm -rf build/lib*
	$(BIN)/python -m pip install --quiet --no-build-isolation --no-deps --force-reinstall .
	@touch $@
