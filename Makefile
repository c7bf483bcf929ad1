# make help lists the targets. Everything is installed into .venv, from requirements.lock, on first use.
# PYTHON: the interpreter that makes .venv (3.11 or newer).
# RUN=python3 make ...: use an environment of your own, with everything installed, instead of .venv.

PYTHON ?= python3
VENV := .venv
READY := $(VENV)/ready
ifdef RUN
  READY :=
else
  RUN := $(VENV)/bin/python
endif

# Without BUDGET: paper where torch finds a GPU, quick elsewhere.
by_hardware = $(RUN) -c "import torch; print('paper' if torch.cuda.is_available() else 'quick')"
budget = $(eval budget := $(or $(BUDGET),$(shell $(by_hardware))))$(budget)
# Where results go. results/ comes with finished runs, which are not trained again; another folder starts from nothing.
RESULTS ?= results
results = $(RESULTS)/$(budget)
# Where the data bundle goes; with BSNN_DATA_DIR set to it, it is read.
BUNDLE ?= data-bundle
# Where the folder for a machine without a network goes.
OFFLINE ?= offline
# More Hydra overrides for the runs, say SET="seed=0,1,2" or SET="tracking=none".
SET ?=
# Where W&B's runs go, if not to your default entity and the project bsnn.
WANDB ?=

.DEFAULT_GOAL := help
.PHONY: help setup reproduce train data data-bundle offline collect table1 table2 fig1 fig2 fig3 fig4 figures table \
  sweeps sweep_depth sweep_width sweep_learning_rate sweep_batch_size sweep_initialisation \
  studies theory vanishing shrinkage collapse bridge beyond \
  page dashboard sync review report docs wheel bench test check lock clean

help: ## list the targets
	@grep -hE '^[a-z0-9 -]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z0-9 -]+):[^#]*## (.*)/  make \1\t\2/' | expand -t 24
	@echo "  BUDGET=paper|quick|smoke  RESULTS=folder (default results)  SET='seed=0,1,2 threads=2'"

setup: $(READY) ## install everything into .venv

reproduce: ## Table 1, Table 2, Figures 1-4 and the report, into results/<budget>/
reproduce: $(READY) data
	$(RUN) -m scripts.reproduce $(budget) --results $(RESULTS) $(SET)

data: $(READY) ## fetch and verify MNIST and CIFAR-10
	$(RUN) -m scripts.data mnist cifar10

data-bundle: $(READY) ## MNIST and CIFAR-10 as files of at most 48 MB, for a machine without a network
	$(RUN) -m scripts.bundle $(BUNDLE)

offline: $(READY) data ## all that a GPU without a network needs, in parts of at most 60 MB: OFFLINE=folder
	$(RUN) -m scripts.offline $(OFFLINE)

collect: $(READY) ## merge records that scripts.pack has packed: ARCHIVE='one.tar.xz two.tar.xz'
	$(RUN) -m scripts.collect $(ARCHIVE) --results $(RESULTS)

train: $(READY) data ## train the cells of Table 2 and Fig. 4; finished ones are skipped
	$(RUN) -m experiments.train +experiment=table2 budget=$(budget) results_dir=$(RESULTS) $(SET)

table1: $(READY) ## Table 1: the GPN constants
	$(RUN) -m scripts.table1 $(results)

table2: $(READY) ## Table 2, from the records
	$(RUN) -m scripts.table2 $(results)

fig1 fig2 fig3: %: $(READY) ## Figure 1, 2 or 3 (synthetic data)
	$(RUN) -m experiments.synthetic +experiment=$@ budget=$(budget) results_dir=$(RESULTS)
	$(RUN) -m scripts.$@ $(results)

fig4: $(READY) ## Figure 4, from the records
	$(RUN) -m scripts.fig4 $(results)

table: table1 table2 ## both tables
figures: fig1 fig2 fig3 fig4 ## all figures

sweeps: sweep_depth sweep_width sweep_learning_rate sweep_batch_size sweep_initialisation ## all five, and the report
	$(RUN) -m scripts.report $(results)

sweep_depth: ## Table 2's networks with 50 to 1000 layers
sweep_width: ## with 100 to 1500 units
sweep_learning_rate: ## with learning rates 1e-5 to 0.1
sweep_batch_size: ## with mini-batches of 16 to 1024
sweep_initialisation: ## orthogonal against Gaussian weights at the start, by depth
sweep_depth sweep_width sweep_learning_rate sweep_batch_size sweep_initialisation: $(READY) data
	$(RUN) -m experiments.train +experiment=$@ budget=$(budget) results_dir=$(RESULTS) $(SET)
	$(RUN) -m scripts.sweeps $(results)

studies: theory vanishing shrinkage collapse bridge beyond ## the studies beyond Table 2: computed, drawn, reported
	if [ -d $(results)/runs ]; then $(RUN) -m scripts.report $(results); fi

theory: ## the BSNN paper's propositions and theorems, checked by numbers
vanishing: ## vanishing and exploding gradients, and the usual tricks against them
shrinkage: ## representations shrink with depth (the shrinkage paper's Figures 1-4)
collapse: ## deep narrow networks collapse (the collapse paper's Figures 1-7)
bridge: ## GPN networks under the last two lenses
beyond: ## what the theory leaves open: finite width, Jacobians
theory vanishing shrinkage collapse bridge beyond: %: $(READY)
	$(RUN) -m experiments.$@ budget=$(budget) results_dir=$(RESULTS)
	$(RUN) -m experiments.$@.report $(results)

page: $(READY) ## index.html: all curves, gradients and runs on one page, to open in a browser
	$(RUN) -m scripts.page $(results)

dashboard: $(READY) ## W&B workspaces and report as code: written as JSON, and saved on W&B if you are logged in
	$(RUN) -m scripts.dashboard $(results) $(WANDB)

sync: $(READY) ## upload to W&B what it lacks: runs, then tables and figures. WANDB='--entity=NAME --project=NAME'
	$(RUN) -m scripts.sync $(results) $(WANDB)

review: page ## without an account: index.html, and W&B's terminal dashboard
	$(RUN) -m scripts.review $(results)

report: $(READY) ## report.md: the claims, tables, figures, what ran and where
	$(RUN) -m scripts.report $(results)

docs: $(READY) ## the documentation site, site/html/index.html; fails for a broken link or example
	$(RUN) -m sphinx -W --keep-going --quiet -b html docs site/html

bench: $(READY) ## time a step: bsnn.network, vmap and the engine, into results/bench/
	$(RUN) -m scripts.benchmark

test: $(READY) ## everything that needs no GPU, in minutes
	PYTHONDONTWRITEBYTECODE= $(RUN) -m pytest # its processes would compile torch again and again

check: $(READY) ## lint, format and type check
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy

wheel: $(READY) ## dist/bsnn-*.whl: the library, its configs and launchers, without the experiments' commands
	$(RUN) -m hatchling build -t wheel

lock: $(READY) ## renew requirements.lock from pyproject.toml; KEEP=1: what is in it keeps its version
	$(VENV)/bin/uv pip compile pyproject.toml --all-extras --generate-hashes --universal --no-emit-index-url \
	  --no-annotate $(if $(KEEP),,--upgrade) --python-version 3.11 -q -o requirements.lock

clean: ## remove the environment and the logs; results and data stay
	rm -rf $(VENV) outputs multirun .pytest_cache .mypy_cache .ruff_cache

# --- set-up: once, and again when the lock or the list of packages changes ---
$(VENV)/ready: requirements.lock pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check 'uv>=0.5'
	$(VENV)/bin/uv pip sync --quiet --require-hashes --python $(VENV) requirements.lock
	$(VENV)/bin/uv pip install --quiet --python $(VENV) --no-deps -e .
	@touch $@
