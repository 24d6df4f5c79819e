# The project's own commands. Each works on a fresh Debian 12 machine that has Rust and nothing else: what is missing
# is installed by scripts/install-missing, which says what and why.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help build portable demo test test-fleet lint soak bench install-missing toolchain

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

# It says in one line why it cannot run, and fails: what was not run has not passed.
test-fleet: ## Test on hosts of their own, with systemd, ssh, power and networks (as root)
	@[ "$$EUID" -eq 0 ] || tests/fleet/able
	@scripts/install-missing fleet
	@tests/fleet/able
	scripts/build-portable debug
	$(CARGO) test --locked --test fleet -- --include-ignored --skip by_hand

lint: toolchain ## Check format, clippy, docs, licences, bans, sources and advisories
	scripts/lint

soak: install-missing ## Run everything random at its full counts (VALKEEPER_SEED=… repeats a run)
	VALKEEPER_SOAK=1 $(CARGO) test --release --locked --lib --bins --tests -- --nocapture
	@if [ "$$EUID" -eq 0 ]; then scripts/install-missing fleet; fi
	@if tests/fleet/able; then scripts/build-portable && \
	  VALKEEPER_SOAK=1 $(CARGO) test --release --locked --test fleet -- --include-ignored --nocapture moves::; fi

# As root also on hosts; where those cannot be booted, that benchmark says so and the others run. Ansible is not installed:
# ANSIBLE_PLAYBOOK names one that is not on PATH.
bench: install-missing portable ## Measure speed against its floors, printed as ratios
	@if [ "$$EUID" -eq 0 ]; then scripts/install-missing fleet; fi
	$(CARGO) bench --locked

install-missing: ## Install the system packages that are missing, and only those
	@scripts/install-missing

toolchain:
	@scripts/install-missing toolchain
