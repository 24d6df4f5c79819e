# The project's own commands. Each works on a fresh Debian 12 machine that has Rust and nothing else: what is missing
# is installed by scripts/install-missing, which says what and why.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help build portable demo test lint soak bench install-missing toolchain

CARGO ?= cargo

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-16s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

build: toolchain ## Build the valkeeper program (release): target/release/valkeeper
	$(CARGO) build --release --locked

portable: ## Build the program for nodes, which runs on any Linux of this kind of machine: target/release/valkeeper-linux-MACHINE
	scripts/build-portable

demo: ## Apply an example on this machine, in a temporary folder, and show what valkeeper does
	scripts/demo

# The examples in doc comments come first, so that the last summary is that of the tests.
test: install-missing ## Run every test, on real valkey-servers
	$(CARGO) test --locked --doc
	$(CARGO) test --locked --lib --bins --tests

lint: toolchain ## Check format, clippy, docs, licences, bans, sources and advisories
	scripts/lint

soak: install-missing ## Run everything random at its full counts (VALKEEPER_SEED=… repeats a run)
	VALKEEPER_SOAK=1 $(CARGO) test --release --locked --lib --bins --tests -- --nocapture

bench: install-missing ## Measure speed against its floors, printed as ratios
	$(CARGO) bench --locked

install-missing: ## Install the system packages that are missing, and only those
	@scripts/install-missing

toolchain:
	@scripts/install-missing toolchain
