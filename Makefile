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

# --- Use -------------------------------------------------------------------------------------------

.PHONY: demo
demo: ## Three nodes on this machine, and their pods talking
	@deploy/prerequisites demo
	$(COMPILE) --profile demo $(DEMO)
	$(SUDO) ./target/$(TRIPLE)/demo/culvert lab demo

# One build for use and for the image: static programs, since each call of the plugin is a new process,
# of which loading libraries would be a third, and the image has nothing else. RUSTFLAGS with --target
# applies to what runs here and not to build scripts.
COMPILE := RUSTFLAGS="-C target-feature=+crt-static" cargo build --locked --target $(TRIPLE)
BUILD := $(COMPILE) --release
BUILT := target/$(TRIPLE)/release
# What the demo needs: without the clients of etcd and Kubernetes, which take as long as all the rest.
DEMO := --no-default-features --features lab -p culvert -p culvert-cni

.PHONY: release
release: ## Build for use: target/release/culvert and culvert-cni
	$(BUILD) -p culvert -p culvert-cni -p culvert-pages
	@mkdir -p target/release && ln -f $(addprefix $(BUILT)/,culvert culvert-cni culvert-pages) target/release/

# Manual pages and completion scripts, with the places that they have below a prefix.
PAGES := target/pages
.PHONY: install
install: release ## Install under PREFIX (/usr/local) and CNI_BIN (/opt/cni/bin), with man pages and completion
	$(SUDO) install -D -m 755 target/release/culvert $(DESTDIR)$(PREFIX)/bin/culvert
	$(SUDO) ln -sf culvert $(DESTDIR)$(PREFIX)/bin/kubectl-culvert
	$(SUDO) install -D -m 755 target/release/culvert-cni $(DESTDIR)$(CNI_BIN)/culvert-cni
	@rm -rf $(PAGES) && target/release/culvert-pages $(PAGES)
	@cd $(PAGES) && find . -type f -exec $(SUDO) install -D -m 644 {} $(DESTDIR)$(PREFIX)/{} \;

# The same for the image: without the lab, and without the symbols that no debugger there would read.
DIST := target/dist
.PHONY: dist
dist:
	$(BUILD) --no-default-features --features databases -p culvert -p culvert-cni
	@mkdir -p $(DIST) && for program in culvert culvert-cni; do strip -o $(DIST)/$$program $(BUILT)/$$program; done

.PHONY: image
image: ## The container image `culvert`, from what is built here
	@deploy/prerequisites compose
	@$(MAKE) --no-print-directory dist
	DIST=$(DIST) deploy/compose/build-images

.PHONY: compose-images
compose-images: ## The images of docker-compose.yml
	@deploy/prerequisites demo compose
	@$(MAKE) --no-print-directory dist
	DIST=$(DIST) deploy/compose/build-images machine

.PHONY: compose-demo
compose-demo: compose-images ## Three nodes as containers, and their pods talking
	deploy/compose/demo

# --- Test ------------------------------------------------------------------------------------------

# Every build below is of the whole workspace with its tests, which chooses one set of features for
# each dependency: building packages by name, or without tests, would build most dependencies again.

# Where an engine is, its tests are part of all tests; CI is to have one, or to fail.
COMPOSE_TESTS := $(if $(filter true,$(CI)),test-compose,$(shell (docker version || sudo -n docker version) >/dev/null 2>&1 && echo test-compose || echo without-compose))

.PHONY: test
test: lint test-unit test-root $(COMPOSE_TESTS) ## Everything that must pass before a change lands
	@echo "make test: everything passed"

.PHONY: build
build: ## Build for development, with the tests
	cargo build --workspace --bins --tests --locked

.PHONY: lint
lint: ## Format, clippy and documentation, warnings as errors
	@deploy/prerequisites demo test
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --locked -- -D warnings
	@# The tests that a plain `cargo test` leaves out, because they need root, are no targets of its.
	cargo clippy --workspace --test '*' --locked -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --document-private-items --locked

.PHONY: test-unit
test-unit: ## Tests that need nothing
	cargo test --workspace --locked

# What needs root: real devices and namespaces. SUITES="netns" for one, TEST=name for some of its tests.
SUITES ?= node-state cni-netns netns netns-plain sources browser runtimes
# What does not depend on how the daemon moves packets, and is not run a second time without offloads.
ONCE := $(addprefix --skip=,breaks:: chained:: churn:: cleanup:: doctor:: exercises:: host_ports:: ipam:: \
	monitoring:: plugin:: policy:: preflight:: schemas:: supervised:: truth:: unprivileged::)
.PHONY: test-root
test-root: ## Tests with devices and namespaces (SUITES="netns sources", TEST=part of a name)
	@deploy/prerequisites demo test $(filter browser runtimes,$(SUITES))
	@$(MAKE) --no-print-directory build
	@# The program in the containers of `runtimes` has nothing around it, so it brings its libraries along.
	$(if $(filter runtimes,$(SUITES)),cargo rustc --locked -p runtime-guest --target-dir target/static -- -C target-feature=+crt-static)
	@for suite in $(SUITES); do \
	    offload=; [ "$$suite" != netns-plain ] || offload=off; \
	    env $${offload:+CULVERT_TEST_OFFLOAD=$$offload} $(ROOT_RUNNER) cargo test --workspace --locked --test "$${suite%-plain}" -- $(TEST) $${offload:+$(ONCE)}; \
	done

# Images of their own, so that those of a user stay; removed with what they were for.
.PHONY: test-compose
test-compose: ## Nodes as containers: one script per behaviour (COMPOSE_TEST=name)
	@deploy/prerequisites demo test compose
	@$(MAKE) --no-print-directory dist
	@$(MAKE) --no-print-directory build
	export CULVERT_IMAGE=culvert:test-$$$$ CULVERT_NODE_IMAGE=culvert-node:test-$$$$; \
	trap 'tests/compose/remove-images' EXIT; \
	DIST=$(DIST) EXTRA=target/debug/compose-tools deploy/compose/build-images machine; \
	tests/compose/image; \
	tests/compose/run $(COMPOSE_TEST)

# Root for all of it: nodes are namespaces, with a runtime each.
.PHONY: test-kubernetes
test-kubernetes: ## A Kubernetes of three nodes: its own tests, days of its life (KUBE_BIN=DIR, DAY=name)
	@[ -x "$(KUBE_BIN)/kubelet" ] || { echo "KUBE_BIN=DIR names the programs of Kubernetes; \`tests/kubernetes/build DIR\` makes them" >&2; exit 1; }
	@deploy/prerequisites demo kubernetes compose
	@$(MAKE) --no-print-directory dist
	@$(MAKE) --no-print-directory build
	$(SUDO) env KUBE_BIN="$(abspath $(KUBE_BIN))" KEEP="$(KEEP)" KUBE_PROXY_MODE="$(KUBE_PROXY_MODE)" \
	    KUBE_FAMILIES="$(KUBE_FAMILIES)" KUBE_OTHER_DIST="$(KUBE_OTHER_DIST)" tests/kubernetes/run $(DAY)

.PHONY: without-compose
without-compose:
	@echo "LEFT OUT: the tests with containers, because no engine answers here; \`make test-compose\` installs one and runs them"

# --- Look harder ---------------------------------------------------------------------------------

.PHONY: simulate
simulate: ## Whole nodes under a virtual clock: RUNS=10000 fresh ones, or one run shown (SEED=…)
	CULVERT_SIM_RUNS=$(or $(RUNS),10000) CULVERT_SIM_SEED=$(SEED) \
	    cargo test --locked -p culvert-dataplane --test simulation -- --nocapture --exact fresh_seeds_hold_every_invariant

.PHONY: simulate-claims
simulate-claims: ## How nodes come to their subnets: RUNS=10000 fresh ones, or one run shown (SOURCE=etcd|kubernetes SEED=…)
	CULVERT_SIM_RUNS=$(or $(RUNS),10000) CULVERT_SIM_SEED=$(SEED) CULVERT_SIM_SOURCE=$(SOURCE) \
	    cargo test --locked -p culvert-claims --test simulation -- --nocapture fresh_seeds

.PHONY: simulate-handshakes
simulate-handshakes: ## Who shakes hands with whom: RUNS=1000 fresh ones on a bad network, of INITs that cross and more, or one run shown (TEST=name SEED=…)
	$(if $(SEED),CULVERT_SIM_SEED=$(SEED)) CULVERT_SIM_RUNS=$(or $(RUNS),1000) \
	    cargo test --locked -p culvert-seal --test handshakes -- --nocapture $(or $(TEST),the_promises crossing_inits the_change)

.PHONY: nonces
nonces: ## No key seals two packets with one IV: an audit over 10^8 packets (NONCES=…)
	CULVERT_NONCES=$(or $(NONCES),100000000) \
	    cargo test --locked --release -p culvert-seal --test nonces -- --nocapture

.PHONY: simulate-probes
simulate-probes: ## Which peer is asked when, and what is found: RUNS=1000 of each scene, or one run shown (SEED=…)
	$(if $(SEED),CULVERT_SIM_SEED=$(SEED)) CULVERT_SIM_RUNS=$(or $(RUNS),1000) \
	    cargo test --locked -p culvert-probe --test simulation -- --nocapture fresh_seeds

.PHONY: simulate-policies
simulate-policies: ## Made-up policies: VERDICTS=1000000 of evaluator, plan and documents held against one another
	CULVERT_POLICY_VERDICTS=$(or $(VERDICTS),1000000) \
	    cargo test --locked -p culvert-policy --test oracle -- --nocapture judge_plan_and_openings

.PHONY: many-peers
many-peers: ## Sessions with PEERS=10000 peers: at the first attempt, in bounded memory
	CULVERT_PEERS=$(or $(PEERS),10000) cargo test --locked --release -p culvert-seal --test scale -- --nocapture

.PHONY: mutants
mutants: ## Remove each check of what strangers send in turn; some test must notice (MUTANTS=parts of names)
	MUTANTS="$(MUTANTS)" cargo test --locked -p culvert --test mutants

# How long each target is fuzzed, which targets (all unless named), and how.
TIME ?= 60s
TARGET ?= $(notdir $(wildcard tests/fuzz/corpus/*))
# Those of the data path alone need little of what the daemon is built from.
PACKET_TARGETS := outer_header esp inner_packet icmp split coalesce datagram handshake tun_read
FUZZ_DIR := target/fuzz
FUZZ := $(FUZZ_DIR)/$(TRIPLE)/fuzz/fuzz
# libFuzzer's instrumentation, which stable compilers have too.
FUZZ_FLAGS := --cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
	-Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
	-Cllvm-args=-sanitizer-coverage-trace-compares

.PHONY: fuzz-build
fuzz-build:
	@command -v c++ >/dev/null || { echo "fuzzing needs a C++ compiler (Debian: g++)" >&2; exit 1; }
	RUSTFLAGS="$(FUZZ_FLAGS)" cargo build --locked -p culvert-fuzz --profile fuzz \
	    $(if $(filter-out $(PACKET_TARGETS),$(TARGET)),,--no-default-features) --features discover \
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

.PHONY: fixtures
fixtures: ## Make golden captures and what is expected of them anew; look at git diff afterwards
	CULVERT_BLESS=1 cargo test --locked -p culvert --test packets

.PHONY: fixtures-kernel
fixtures-kernel: ## Capture the kernel's own tunnel anew (root, tcpdump, python3)
	$(SUDO) tests/fixtures/pcap/kernel.sh

.PHONY: deny
deny: ## Licences, versions and sources of dependencies (needs cargo-deny; ADVISORIES=1 also asks what is known against them)
	cargo deny --locked $(if $(ADVISORIES),check,--offline check licenses bans sources)

# --- Measure ---------------------------------------------------------------------------------------

.PHONY: bench-programs
bench-programs:
	@deploy/prerequisites demo test bench
	$(BUILD) -p culvert -p culvert-cni -p bench
	@mkdir -p target/release && ln -f $(addprefix $(BUILT)/,culvert culvert-cni bench) target/release/

.PHONY: bench
bench: bench-programs ## Measure against other pod networks (BENCH_ARGS=--quick for a first look)
	$(SUDO) ./target/release/bench compare --date "$$(date -I)" --json target/bench.json --svg target/bench.svg $(BENCH_ARGS)
	@echo "everything that was measured: target/bench.json; the picture: target/bench.svg"

.PHONY: bench-churn
bench-churn: bench-programs ## Pods that come and go, beside the stock plugins bridge and host-local
	$(SUDO) ./target/release/bench churn --date "$$(date -I)" --json target/churn.json $(BENCH_ARGS)
	@echo "everything that was measured: target/churn.json"

.PHONY: bench-sources
bench-sources: bench-programs ## Table sources: how fast a change reaches eight nodes, and ten thousand nodes
	$(SUDO) ./target/release/bench sources --date "$$(date -I)" --json target/sources.json $(BENCH_ARGS)
	@echo "everything that was measured: target/sources.json"

.PHONY: bench-policy
bench-policy: bench-programs ## Network policies: what they cost, and how soon a change is in force
	$(SUDO) ./target/release/bench policy --date "$$(date -I)" --json target/policy.json $(BENCH_ARGS)
	@echo "everything that was measured: target/policy.json"

.PHONY: bench-cluster
bench-cluster: bench-programs ## One node of ten thousand, with 150,000 pods and 5,000 policies: what it takes
	$(SUDO) ./target/release/bench cluster --date "$$(date -I)" --json target/cluster.json $(BENCH_ARGS)
	@echo "everything that was measured: target/cluster.json"

.PHONY: bench-sealed
bench-sealed: bench-programs ## Sealed mode: handshakes, floods, renewals, and how soon sessions stand
	$(SUDO) ./target/release/bench sealed --date "$$(date -I)" --json target/sealed.json $(BENCH_ARGS)
	@echo "everything that was measured: target/sealed.json"

.PHONY: bench-look
bench-look: bench-programs ## Looking at a node: how long doctor and scrapes take, what flows and top cost
	$(SUDO) ./target/release/bench look --date "$$(date -I)" --json target/look.json $(BENCH_ARGS)
	@echo "everything that was measured: target/look.json"

.PHONY: bench-micro
bench-micro: ## Micro-benchmarks: codec, lookup, checksum, offloads, sealing, a whole worker
	cargo bench --locked -p bench --no-default-features

