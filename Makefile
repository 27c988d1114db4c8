# The two commands that matter: `make dev` and `make test`. The rest is parts of them.

CARGO ?= cargo
# Black-box tests wait for other processes far more than they compute: with twice as many threads as cores, the whole suite
# leaves a third of the cores idle.
export RUST_TEST_THREADS ?= $(shell echo $$((3 * $$(nproc))))
# Lints this package as `cargo clippy -- -D warnings` does: so all targets are linted while they are compiled to be run,
# and dependencies are not compiled a second time to be checked.
LINTED = RUSTC_WORKSPACE_WRAPPER=$(CURDIR)/tools/rustc-linted CLIPPY_ARGS=-D__CLIPPY_HACKERY__warnings

.PHONY: help dev build test format lint prepared compiled bench figures tools stage deb rpm dist image test-packages test-vm clean

help: ## Show this list.
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

dev: ## Start everything in one process, on http://127.0.0.1:3000.
	$(CARGO) run --release -- dev

build: ## Build the static binary: target/release/jobber.
	$(CARGO) build --release

# No release build: it would take as long again as all tests, and both profiles are linked in the same way.
test: format ## Run every test, and install first what they need.
	@$(MAKE) --no-print-directory -j2 prepared compiled
	$(LINTED) $(CARGO) test --no-fail-fast

# What the tests need is fetched while their code is compiled: the one waits for the network, the other for the CPU. The
# C++ jobs are tested meanwhile, too: the last of the Rust code is compiled on one core.
prepared: tools
	$(MAKE) --no-print-directory -C cpp-jobs test

compiled: $(if $(shell command -v c++),,tools)
	$(LINTED) $(CARGO) test --no-run

format: ## Check format.
	$(CARGO) fmt --check

lint: format ## Check format and lints, without a test.
	$(CARGO) clippy --all-targets -- -D warnings

bench: build tools ## Compare the whole pipeline with raw process spawning, and on Redis with a Node worker too.
	$(MAKE) --no-print-directory -C cpp-jobs
	target/release/jobber bench --binary cpp-jobs/build/hello
	node tests/compat-node/bench.js target/release/jobber cpp-jobs/build

BEFORE ?=
figures: build tools ## Take every figure of docs/architecture/performance.md; BEFORE=BINARY: beside those of another.
	$(MAKE) --no-print-directory -C cpp-jobs
	tools/figures target/release/jobber $(BEFORE)

# Packages hold this: make deb BINARY=... packages one that is there, and builds none.
BINARY ?=
PACKAGED = $(or $(BINARY),target/release/jobber)
deb rpm dist: export SOURCE_DATE_EPOCH ?= $(shell git log -1 --format=%ct 2>/dev/null || stat -c %Y Cargo.toml)

stage: $(if $(BINARY),,build)
	@tools/stage-package $(PACKAGED) target/package/root

deb: stage ## Make a Debian package: target/package/*.deb.
	@tools/install-package-tools cargo-deb
	@rm -f target/package/*.deb
	target/package-tools/cargo-deb --no-build --no-strip --locked --output target/package/ $(DEB_FLAGS)

rpm: stage ## Make an RPM package: target/package/*.rpm.
	@tools/install-package-tools cargo-generate-rpm
	@rm -f target/package/*.rpm
	target/package-tools/cargo-generate-rpm --output target/package/ $(RPM_FLAGS)

dist: stage ## Make a tarball with checksums and a list of what is in it (SBOM): target/package/*.tar.gz.
	@tools/install-package-tools cargo-cyclonedx
	@rm -f target/package/*.tar.gz target/package/*.cdx.json
	@tools/dist target/package/root

image: $(if $(BINARY),,build) ## Make the image with buildah alone, of a binary built here.
	@tools/image $(PACKAGED)

test-packages: $(if $(BINARY),,build) ## Install the packages into a Debian tree, run jobs there, upgrade and purge; run the image. As root.
	@tests/packages/run $(PACKAGED)

test-vm: deb ## Boot the Debian package in a virtual machine, with systemd and cgroup v2. As root.
	@tests/packages/vm

tools:
	@tools/install-test-tools

clean: ## Remove what was built.
	$(CARGO) clean
	$(MAKE) --no-print-directory -C cpp-jobs clean
