# Every command that people and CI run. `make` alone lists them.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

# Root is needed for namespaces and devices only; what is built belongs to whoever builds.
SUDO := $(shell [ "$$(id -u)" = 0 ] || echo sudo)
TRIPLE := $(shell rustc -vV 2>/dev/null | sed -n 's/^host: //p')
# cargo runs test programs through this, so that only they run as root.
ROOT_RUNNER := $(if $(SUDO),CARGO_TARGET_$(shell echo $(TRIPLE) | tr a-z- A-Z_)_RUNNER="$(SUDO) -E")

PREFIX ?= /usr/local
CNI_BIN ?= /opt/cni/bin

.PHONY: help
help: ## List the commands
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | sort | column -t -s "$$(printf '\t')"

.PHONY: demo
demo: prerequisites release ## Three nodes on this machine, and their pods talking
	$(SUDO) ./target/release/culvert lab demo

.PHONY: test
test: prerequisites fmt lint doc test-unit test-root ## Everything that must pass before a change lands
	@echo "make test: everything passed"

.PHONY: bench
bench: prerequisites bench-prerequisites release ## Measure against other pod networks (BENCH_ARGS=--quick for a first look)
	cargo build --release --locked -p bench
	$(SUDO) ./target/release/bench compare --date "$$(date -I)" --json target/bench.json --svg target/bench.svg $(BENCH_ARGS)
	@echo "everything that was measured: target/bench.json; the picture: target/bench.svg"

.PHONY: bench-micro
bench-micro: ## Micro-benchmarks: codec, lookup, checksum, offloads, a whole worker
	cargo bench --locked -p bench

.PHONY: build
build: ## Build for development
	cargo build --workspace --locked

.PHONY: release
release: ## Build for use
	cargo build --release --locked -p culvert -p culvert-cni

.PHONY: fmt
fmt: ## Check the format
	cargo fmt --all --check

.PHONY: lint
lint: ## Clippy, warnings as errors
	cargo clippy --workspace --all-targets --locked -- -D warnings

.PHONY: doc
doc: ## Build the documentation, warnings as errors
	RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --document-private-items --locked

.PHONY: test-unit
test-unit: ## Tests that need nothing
	cargo test --workspace --locked

.PHONY: test-root
test-root: test-node-state test-cni test-netns test-netns-plain ## Tests that need root: devices and namespaces

.PHONY: test-node-state
test-node-state: ## The node's kernel state: set up, repaired, cleaned up
	$(ROOT_RUNNER) cargo test --locked -p culvert --test node-state

.PHONY: test-cni
test-cni: ## The CNI plugin in namespaces of its own
	$(ROOT_RUNNER) cargo test --locked -p culvert-cni --test cni-netns

.PHONY: test-netns
test-netns: build ## Whole nodes and pods as namespaces
	$(ROOT_RUNNER) cargo test --locked -p culvert --test netns

.PHONY: test-netns-plain
test-netns-plain: build ## The same with every offload off
	CULVERT_TEST_OFFLOAD=off $(ROOT_RUNNER) cargo test --locked -p culvert --test netns

.PHONY: install
install: release ## Install under PREFIX (/usr/local) and CNI_BIN (/opt/cni/bin)
	$(SUDO) install -D -m 755 target/release/culvert $(DESTDIR)$(PREFIX)/bin/culvert
	$(SUDO) install -D -m 755 target/release/culvert-cni $(DESTDIR)$(CNI_BIN)/culvert-cni

.PHONY: deny
deny: ## Licences, advisories and sources of dependencies (needs cargo-deny)
	cargo deny check

.PHONY: clean
clean: ## Remove what was built
	cargo clean

# What a fresh Debian or Ubuntu lacks: programs, and the package that has each.
TOOLS := ip:iproute2 ping:iputils-ping nft:nftables cc:gcc column:bsdextrautils ethtool:ethtool tshark:tshark

.PHONY: prerequisites
prerequisites:
	@command -v cargo >/dev/null || { echo "Rust is missing: install rustup, then run this again" >&2; exit 1; }
	@missing=""; for tool in $(TOOLS); do \
	    command -v "$${tool%%:*}" >/dev/null || PATH="$$PATH:/usr/sbin:/sbin" command -v "$${tool%%:*}" >/dev/null || missing="$$missing $${tool##*:}"; \
	done; \
	if [ -n "$$missing" ]; then \
	    echo "installing$$missing"; \
	    command -v apt-get >/dev/null || { echo "this needs$$missing; install them, then run this again" >&2; exit 1; }; \
	    $(SUDO) apt-get update -qq; \
	    $(SUDO) env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $$missing >/dev/null; \
	fi
	@[ -c /dev/net/tun ] || $(SUDO) modprobe tun || { echo "this kernel has no TUN driver (/dev/net/tun)" >&2; exit 1; }
	@cargo fmt --version >/dev/null 2>&1 && cargo clippy --version >/dev/null 2>&1 || rustup component add rustfmt clippy

# What the bench measures beside Culvert, and sets up with. What a distribution lacks is left out.
BENCH_TOOLS := ethtool:ethtool wireguard-go:wireguard-go wg:wireguard-tools nebula:nebula

.PHONY: bench-prerequisites
bench-prerequisites:
	@missing=""; for tool in $(BENCH_TOOLS); do \
	    PATH="$$PATH:/usr/sbin:/sbin" command -v "$${tool%%:*}" >/dev/null || missing="$$missing $${tool##*:}"; \
	done; \
	if [ -n "$$missing" ] && command -v apt-get >/dev/null; then \
	    echo "installing$$missing"; \
	    $(SUDO) apt-get update -qq; \
	    for package in $$missing; do \
	        $(SUDO) env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $$package >/dev/null \
	            || echo "$$package cannot be installed; the comparison goes on without it"; \
	    done; \
	fi
