# The two commands that matter: `make dev` and `make test`. The rest is parts of them.

CARGO ?= cargo
# Black-box tests wait for other processes far more than they compute.
export RUST_TEST_THREADS ?= $(shell echo $$((2 * $$(nproc))))

.PHONY: help dev build test lint bench tools clean

help: ## Show this list.
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

dev: ## Start everything in one process, on http://127.0.0.1:3000.
	$(CARGO) run --release -- dev

build: ## Build the static binary: target/release/jobber.
	$(CARGO) build --release

test: tools lint build ## Run every test, and install first what they need.
	$(MAKE) --no-print-directory -C cpp-jobs test
	JOBBER_TEST_RELEASE=target/release/jobber $(CARGO) test --no-fail-fast

lint: ## Check format and lints.
	$(CARGO) fmt --check
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
