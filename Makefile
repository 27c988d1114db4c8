# The two commands that matter: `make dev` and `make test`. The rest is parts of them.

CARGO ?= cargo
# Black-box tests wait for other processes far more than they compute.
export RUST_TEST_THREADS ?= $(shell echo $$((2 * $$(nproc))))
# Lints this package as `cargo clippy -- -D warnings` does: so all targets are linted while they are compiled to be run,
# and dependencies are not compiled a second time to be checked.
LINTED = RUSTC_WORKSPACE_WRAPPER=$(CURDIR)/tools/rustc-linted CLIPPY_ARGS=-D__CLIPPY_HACKERY__warnings

.PHONY: help dev build test format lint bench tools clean

help: ## Show this list.
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

dev: ## Start everything in one process, on http://127.0.0.1:3000.
	$(CARGO) run --release -- dev

build: ## Build the static binary: target/release/jobber.
	$(CARGO) build --release

# No release build: it would take as long again as all tests, and both profiles are linked in the same way.
test: tools format ## Run every test, and install first what they need.
	$(MAKE) --no-print-directory -C cpp-jobs test
	$(LINTED) $(CARGO) test --no-fail-fast

format: ## Check format.
	$(CARGO) fmt --check

lint: format ## Check format and lints, without a test.
	$(CARGO) clippy --all-targets -- -D warnings

bench: build tools ## Compare the whole pipeline with raw process spawning, and on Redis with a Node worker too.
	$(MAKE) --no-print-directory -C cpp-jobs
	target/release/jobber bench --binary cpp-jobs/build/hello
	node tests/compat-node/bench.js target/release/jobber cpp-jobs/build

tools:
	@tools/install-test-tools

clean: ## Remove what was built.
	$(CARGO) clean
	$(MAKE) --no-print-directory -C cpp-jobs clean
