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

# Where an engine is, its tests are part of all tests; CI is to have one, or to fail.
COMPOSE_TESTS := $(if $(filter true,$(CI)),test-compose,$(shell (docker version || sudo -n docker version) >/dev/null 2>&1 && echo test-compose || echo without-compose))

.PHONY: demo
demo: prerequisites release ## Three nodes on this machine, and their pods talking
	$(SUDO) ./target/release/culvert lab demo

.PHONY: test
test: prerequisites fmt lint doc test-unit test-root $(COMPOSE_TESTS) ## Everything that must pass before a change lands
	@echo "make test: everything passed"

.PHONY: bench
bench: prerequisites bench-prerequisites release ## Measure against other pod networks (BENCH_ARGS=--quick for a first look)
	cargo build --release --locked -p bench
	$(SUDO) ./target/release/bench compare --date "$$(date -I)" --json target/bench.json --svg target/bench.svg $(BENCH_ARGS)
	@echo "everything that was measured: target/bench.json; the picture: target/bench.svg"

.PHONY: bench-churn
bench-churn: prerequisites release ## Pods that come and go, beside the stock plugins bridge and host-local
	cargo build --release --locked -p bench
	$(SUDO) ./target/release/bench churn --date "$$(date -I)" --json target/churn.json $(BENCH_ARGS)
	@echo "everything that was measured: target/churn.json"

.PHONY: bench-sources
bench-sources: prerequisites release ## Table sources: how fast a change reaches eight nodes, and ten thousand nodes
	cargo build --release --locked -p bench
	$(SUDO) ./target/release/bench sources --date "$$(date -I)" --json target/sources.json $(BENCH_ARGS)
	@echo "everything that was measured: target/sources.json"

.PHONY: bench-micro
bench-micro: ## Micro-benchmarks: codec, lookup, checksum, offloads, a whole worker
	cargo bench --locked -p bench

.PHONY: build
build: ## Build for development
	cargo build --workspace --locked

.PHONY: release
release: ## Build for use
	cargo build --release --locked -p culvert
# Each call is a new process, and loading libraries would be a third of its start.
	cargo rustc --release --locked -p culvert-cni --bin culvert-cni -- -C target-feature=+crt-static

.PHONY: fmt
fmt: ## Check the format
	cargo fmt --all --check

.PHONY: lint
lint: ## Clippy, warnings as errors
	cargo clippy --workspace --all-targets --locked -- -D warnings
	@# The tests that a plain `cargo test` leaves out, because they need root, are no targets of its.
	cargo clippy --workspace --test '*' --locked -- -D warnings

.PHONY: doc
doc: ## Build the documentation, warnings as errors
	RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --document-private-items --locked

.PHONY: test-unit
test-unit: ## Tests that need nothing
	cargo test --workspace --locked

.PHONY: simulate
simulate: ## Whole nodes under a virtual clock: RUNS=10000 fresh ones, or one run shown (SEED=…)
	CULVERT_SIM_RUNS=$(or $(RUNS),10000) CULVERT_SIM_SEED=$(SEED) \
	    cargo test --locked -p culvert-dataplane --test simulation -- --nocapture --exact fresh_seeds_hold_every_invariant

.PHONY: mutants
mutants: ## Remove each check of the data path in turn; some test must notice (MUTANTS=part of a name)
	MUTANTS=$(MUTANTS) cargo test --locked -p culvert --test mutants

# How long each target is fuzzed, which targets (all unless named), and how.
TIME ?= 60s
TARGET ?= $(notdir $(wildcard tests/fuzz/corpus/*))
FUZZ_DIR := target/fuzz
FUZZ := $(FUZZ_DIR)/$(TRIPLE)/fuzz/fuzz
# libFuzzer's instrumentation, which stable compilers have too.
FUZZ_FLAGS := --cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
	-Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
	-Cllvm-args=-sanitizer-coverage-trace-compares

.PHONY: fuzz-build
fuzz-build:
	@command -v c++ >/dev/null || { echo "fuzzing needs a C++ compiler (Debian: g++)" >&2; exit 1; }
	RUSTFLAGS="$(FUZZ_FLAGS)" cargo build --locked -p culvert-fuzz --features discover --profile fuzz \
	    --target $(TRIPLE) --target-dir $(FUZZ_DIR)

.PHONY: fuzz
fuzz: fuzz-build ## Look for inputs that break a decoder (TIME=60s each, TARGET=NAME for one)
	@for target in $(TARGET); do \
	    mkdir -p $(FUZZ_DIR)/found/$$target tests/fuzz/regressions/$$target; \
	    echo "== $$target for $(TIME); a crash is kept under tests/fuzz/regressions/$$target/"; \
	    CULVERT_FUZZ_TARGET=$$target $(FUZZ) -max_total_time=$(TIME:s=) -timeout=10 -max_len=16384 \
	        -print_final_stats=1 -artifact_prefix=tests/fuzz/regressions/$$target/ \
	        $(FUZZ_DIR)/found/$$target tests/fuzz/corpus/$$target tests/fuzz/regressions/$$target; \
	done

.PHONY: fuzz-minimise
fuzz-minimise: fuzz-build ## Rewrite the corpus as the fewest inputs that reach all that was found
	@for target in $(TARGET); do \
	    mkdir -p $(FUZZ_DIR)/found/$$target $(FUZZ_DIR)/least/$$target; \
	    rm -f $(FUZZ_DIR)/least/$$target/*; \
	    CULVERT_FUZZ_TARGET=$$target $(FUZZ) -set_cover_merge=1 -use_counters=0 -max_len=16384 \
	        $(FUZZ_DIR)/least/$$target tests/fuzz/corpus/$$target $(FUZZ_DIR)/found/$$target 2>&1 | tail -1; \
	    rm -f tests/fuzz/corpus/$$target/*; \
	    cp $(FUZZ_DIR)/least/$$target/* tests/fuzz/corpus/$$target/; \
	done

.PHONY: test-root
test-root: test-node-state test-cni test-netns test-netns-plain test-sources test-runtimes ## Tests that need root: devices and namespaces

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

# Containers: static programs, so that the image has nothing else. RUSTFLAGS with --target applies to
# what is built for the image and not to build scripts; its directory disturbs no other build.
DIST := target/$(TRIPLE)/dist
.PHONY: dist
dist: ## Static programs, for the image
	RUSTFLAGS="-C target-feature=+crt-static" cargo build --profile dist --locked --target $(TRIPLE) --no-default-features -p culvert -p culvert-cni

.PHONY: image
image: prerequisites compose-prerequisites dist ## The container image `culvert`, from what is built here
	DIST=$(DIST) deploy/compose/build-images

.PHONY: compose-images
compose-images: prerequisites compose-prerequisites dist ## The images of docker-compose.yml
	DIST=$(DIST) deploy/compose/build-images machine

.PHONY: compose-demo
compose-demo: compose-images ## Three nodes as containers, and their pods talking
	deploy/compose/demo

# Images of their own, so that those of a user stay; removed with what they were for.
.PHONY: test-compose
test-compose: prerequisites compose-prerequisites dist ## Nodes as containers: one script per behaviour
	cargo build --locked -p compose-tools
	export CULVERT_IMAGE=culvert:test-$$$$ CULVERT_NODE_IMAGE=culvert-node:test-$$$$; \
	trap 'tests/compose/remove-images' EXIT; \
	DIST=$(DIST) EXTRA=target/debug/compose-tools deploy/compose/build-images machine; \
	tests/compose/image; \
	tests/compose/run $(COMPOSE_TEST)

.PHONY: without-compose
without-compose:
	@echo "LEFT OUT: the tests with containers, because no engine answers here; \`make test-compose\` installs one and runs them"

.PHONY: compose-prerequisites
compose-prerequisites:
	@deploy/compose/install-engine

# The program in the containers has nothing around it, so it brings its libraries along.
.PHONY: test-runtimes
test-runtimes: runtime-prerequisites build ## The plugin as containerd, its CRI and a script call it
	cargo rustc --locked -p runtime-guest --target-dir target/static -- -C target-feature=+crt-static
	$(ROOT_RUNNER) cargo test --locked -p culvert --test runtimes

.PHONY: fixtures
fixtures: ## Make golden captures and what is expected of them anew; look at git diff afterwards
	CULVERT_BLESS=1 cargo test --locked -p culvert --test packets

.PHONY: fixtures-kernel
fixtures-kernel: ## Capture the kernel's own tunnel anew (root, tcpdump, python3)
	$(SUDO) tests/fixtures/pcap/kernel.sh

.PHONY: test-sources
test-sources: build ## The subnet table from etcd and from the Kubernetes API
	$(ROOT_RUNNER) cargo test --locked -p culvert --test sources

.PHONY: install
install: release ## Install under PREFIX (/usr/local) and CNI_BIN (/opt/cni/bin)
	$(SUDO) install -D -m 755 target/release/culvert $(DESTDIR)$(PREFIX)/bin/culvert
	$(SUDO) install -D -m 755 target/release/culvert-cni $(DESTDIR)$(CNI_BIN)/culvert-cni

.PHONY: deny
deny: ## Licences, versions and sources of dependencies, without a network (needs cargo-deny)
	cargo deny --locked --offline check licenses bans sources

.PHONY: advisories
advisories: ## What is known against dependencies (needs cargo-deny, and a network for the database)
	cargo deny --locked check advisories

.PHONY: clean
clean: ## Remove what was built
	cargo clean

# What a fresh Debian or Ubuntu lacks: programs, and the package that has each.
TOOLS := ip:iproute2 ping:iputils-ping nft:nftables cc:gcc column:bsdextrautils ethtool:ethtool tshark:tshark tcpdump:tcpdump iptables:iptables \
	/usr/lib/cni/host-local:containernetworking-plugins etcd:etcd-server etcdctl:etcd-client faketime:faketime openssl:openssl

# The package of etcd starts a server, now (unless the service is masked, or without systemd the
# runlevel says that the machine is being repaired) and at each boot. Tests start their own.
KEEP_ETCD := f() { [[ "$$missing" != *etcd-server* || ! -d /run/systemd/system ]] || $(SUDO) systemctl --quiet "$$1" etcd.service; }; f

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
	    $(KEEP_ETCD) mask; \
	    $(SUDO) env DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 apt-get install -y -qq --no-install-recommends $$missing >/dev/null; \
	    $(KEEP_ETCD) unmask; $(KEEP_ETCD) disable; \
	fi
	@[ -c /dev/net/tun ] || $(SUDO) modprobe tun || { echo "this kernel has no TUN driver (/dev/net/tun)" >&2; exit 1; }
	@cargo fmt --version >/dev/null 2>&1 && cargo clippy --version >/dev/null 2>&1 || rustup component add rustfmt clippy

# Container runtimes. Where Docker is installed, containerd is already there.
RUNTIME_TOOLS := containerd:containerd ctr:containerd runc:runc /usr/lib/cni/loopback:containernetworking-plugins

.PHONY: runtime-prerequisites
runtime-prerequisites:
	@missing=""; for tool in $(RUNTIME_TOOLS); do \
	    PATH="$$PATH:/usr/sbin:/sbin" command -v "$${tool%%:*}" >/dev/null || missing="$$missing $${tool##*:}"; \
	done; \
	if [ -n "$$missing" ]; then \
	    echo "installing$$missing"; \
	    command -v apt-get >/dev/null || { echo "this needs$$missing; install them, then run this again" >&2; exit 1; }; \
	    $(SUDO) apt-get update -qq; \
	    $(SUDO) env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $$missing >/dev/null; \
	fi

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
