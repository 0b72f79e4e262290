# Two commands do everything on a fresh machine: `make demo` and `make test`. Both set up `.venv` first.
# `make TORCH=torch demo` installs the newest torch (with CUDA) instead of the pinned one.

PYTHON ?= python3
TORCH ?= torch==2.13.0
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.stamp-installed
TORCH_PIN := $(if $(filter torch==2.13.0,$(TORCH)),-c constraints.txt,)

.PHONY: demo test soak chaos lint format bench clean setup

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@echo "Setting up $(VENV) (once; a few minutes on a slow line)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) 2>/dev/null || \
	  { rm -rf $(VENV) && $(PYTHON) -m pip install -q --target $(VENV).tools virtualenv && \
	    PYTHONPATH=$(VENV).tools $(PYTHON) -m virtualenv -q $(VENV); }
	$(BIN)/python -m pip install -q --disable-pip-version-check $(TORCH)
	$(BIN)/python -m pip install -q --disable-pip-version-check $(TORCH_PIN) -e ".[dev]"
	@touch $@

demo: $(STAMP)
	$(BIN)/python examples/demo.py

test: $(STAMP) lint
	$(BIN)/python -m pytest -q -n 2 --dist loadgroup

# Real processes and, as root on Linux, real networks are hurt; with what takes too long for every day.
chaos: $(STAMP)
	GOSSIPTRAIN_FULL_CHAOS=1 $(BIN)/python -m pytest -q -n 2 --dist loadgroup -m chaos tests/chaos

# 1,000 random fault schedules in the simulator; what is done is kept in soak.jsonl and skipped the next time.
soak: $(STAMP)
	$(BIN)/python -m sim soak --schedules 1000 --jobs 2 --peers-max 64 --minutes 10

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(STAMP)
	@for file in benchmarks/[a-z]*.py; do echo "== $$file"; $(BIN)/python $$file || exit 1; done

clean:
	rm -rf $(VENV) $(VENV).tools .pytest_cache .ruff_cache .hypothesis
