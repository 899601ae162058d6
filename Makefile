# Every task of this project; `make help` lists them.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
MAKEFLAGS += --no-print-directory
.DEFAULT_GOAL := help

# Outside the checkout, so that a fresh clone is warm. Clones share it: cargo keeps their own crates
# apart, and what it built last is copied into this checkout before anything uses it.
CACHE := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/copepod
TARGET := $(abspath $(or $(CARGO_TARGET_DIR),$(CACHE)/target))
GUEST_TARGET := $(CACHE)/guests
BIN := $(CURDIR)/target/bin
HOST = $(shell rustc -vV | sed -n 's/^host: //p')
export CARGO_TARGET_DIR := $(TARGET)

PREFIX ?= $(if $(filter 0,$(shell id -u)),/usr/local,$(HOME)/.local)

# The guests built for WASI 0.1 and for 0.2; the latter are named NAME-p2 where there are both.
GUESTS_P1 := actor hello files cat exit trap burn hog
GUESTS_P2 := hello files cat http
# Those that are built as static Linux programs too, to compare with.
GUESTS_LINUX := actor

# Prints how long a target's command took, and keeps its exit code.
TIME = TIMEFORMAT='== $@: %0R s'; time
# Replaces a file in one step, and only if it changes: who runs or reads the old one keeps it.
COPY = copy() { cmp -s "$$1" "$$2" || { install -D "$$1" "$$2.new" && mv -f "$$2.new" "$$2"; }; }; copy

.PHONY: help setup test-setup bench-setup kubernetes kubelet containerd2 e2e guests build install lint test conformance oracle sim crash-matrix test-vm bench clean-cache

# PROGRAM:PACKAGE (Debian's) of the real parts that tests talk to, each in a moment and on a free port.
TEST_TOOLS := docker-registry:docker-registry htpasswd:apache2-utils skopeo:skopeo etcd:etcd-server \
    /usr/lib/cni/bridge:containernetworking-plugins iptables:iptables ip:iproute2 \
    containerd:containerd ctr:containerd runc:runc busybox:busybox-static bash-static:bash-static
# The same for the bench, and for building runc.
BENCH_TOOLS := wrk:wrk
RUNC_TOOLS := pkg-config:pkg-config /usr/share/doc/libseccomp-dev/copyright:libseccomp-dev

# Installs the packages of those of $(1), PROGRAM:PACKAGE, that are missing; $(2) says who needs them.
INSTALL = missing=; for tool in $(1); do command -v "$${tool%:*}" >/dev/null || [ -f "$${tool%:*}" ] || missing="$$missing $${tool\#*:}"; done; \
    [ -z "$$missing" ] || { [ "$$(id -u)" = 0 ] || { echo "$(2) needs:$$missing" >&2; exit 1; }; \
        apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends $$missing >/dev/null; }

help: ## this list
	@sed -nE 's/^([a-z0-9-]+):.*## (.*)/  make \1\t\2/p' Makefile | expand -t 20

setup: ## what the build needs: gcc, the Rust toolchain and its Wasm targets (installs what is missing)
	@command -v gcc >/dev/null || { [ "$$(id -u)" = 0 ] || { echo "gcc is missing: install gcc and libc6-dev" >&2; exit 1; }; \
	    apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq -y gcc libc6-dev >/dev/null; }
	@command -v rustup >/dev/null || { echo "rustup is missing: see https://rustup.rs" >&2; exit 1; }
	@{ rustc -V && cargo fmt --version && cargo clippy --version && \
	    targets=$$(rustup target list --installed) && grep -qx wasm32-wasip1 <<<"$$targets" && grep -qx wasm32-wasip2 <<<"$$targets"; \
	} >/dev/null 2>&1 || rustup toolchain install --no-self-update # reads rust-toolchain.toml

guests: setup ## the Wasm guests, each put beside its pod file
	@$(TIME) (cd wasm-examples; export CARGO_TARGET_DIR='$(GUEST_TARGET)'; \
	    cargo build -q --locked --release --target wasm32-wasip1 $(GUESTS_P1:%=-p %); \
	    cargo build -q --locked --release --target wasm32-wasip2 $(GUESTS_P2:%=-p %); \
	    RUSTFLAGS='-C target-feature=+crt-static' cargo build -q --locked --release --target $(HOST) $(GUESTS_LINUX:%=-p %); \
	    for g in $(GUESTS_P1); do $(COPY) "$(GUEST_TARGET)/wasm32-wasip1/release/$$g.wasm" $$g/$$g.wasm; done; \
	    for g in $(filter $(GUESTS_P1),$(GUESTS_P2)); do copy "$(GUEST_TARGET)/wasm32-wasip2/release/$$g.wasm" $$g/$$g-p2.wasm; done; \
	    for g in $(filter-out $(GUESTS_P1),$(GUESTS_P2)); do copy "$(GUEST_TARGET)/wasm32-wasip2/release/$$g.wasm" $$g/$$g.wasm; done; \
	    for g in $(GUESTS_LINUX); do copy "$(GUEST_TARGET)/$(HOST)/release/$$g" $$g/$$g; done)

# The agent always as part of the workspace, so that features are the same for build and tests and
# wasmtime is compiled once; the sandbox by itself, so that no compiler gets into it, and beside
# the agent, since its link-time optimisation keeps one core busy for a minute. The agent's debug
# information goes here: cargo leaves it in a program whose package has settings of its own.
build: setup ## the agent and the sandbox, into target/bin
	@$(TIME) (cargo build --locked --release --workspace --bins & agent=$$!; \
	    (cd src/sandbox && cargo build --locked --profile sandbox); wait $$agent; \
	    strip --strip-debug -o '$(TARGET)/release/copepod.stripped' '$(TARGET)/release/copepod'; \
    $(COPY) '$(TARGET)/release/copepod.stripped' '$(BIN)/copepod'; \
	    copy '$(TARGET)/$(HOST)/sandbox/copepod-sandbox' '$(BIN)/copepod-sandbox')

install: build ## both programs into PREFIX/bin (/usr/local for root, else ~/.local)
	@$(COPY) '$(BIN)/copepod-sandbox' '$(DESTDIR)$(PREFIX)/bin/copepod-sandbox'
	@$(COPY) '$(BIN)/copepod' '$(DESTDIR)$(PREFIX)/bin/copepod'
	@echo 'installed copepod and copepod-sandbox in $(DESTDIR)$(PREFIX)/bin'

lint: setup ## formatting and clippy, warnings are errors
	@$(TIME) (cargo fmt --all --check; (cd wasm-examples && cargo fmt --check); \
	    cargo clippy -q --locked --release --workspace --all-targets -- -D warnings; \
	    cd wasm-examples; export CARGO_TARGET_DIR='$(GUEST_TARGET)'; \
	    cargo clippy -q --locked --release --target wasm32-wasip1 $(GUESTS_P1:%=-p %) -- -D warnings; \
	    cargo clippy -q --locked --release --target wasm32-wasip2 $(GUESTS_P2:%=-p %) -- -D warnings; \
	    cargo clippy -q --locked --release --target $(HOST) $(GUESTS_LINUX:%=-p %) -- -D warnings)

PROGRAMS = COPEPOD='$(BIN)/copepod' COPEPOD_SANDBOX='$(BIN)/copepod-sandbox' COPEPOD_GUESTS='$(CURDIR)/wasm-examples' \
    COPEPOD_KUBERNETES='$(KUBERNETES)/kubernetes' COPEPOD_CONTAINERD2='$(CONTAINERD2)' \
    COPEPOD_E2E='$(KUBERNETES)' COPEPOD_CONFORMANCE='$(CONFORMANCE)' \
    COPEPOD_KUBELET='$(KUBERNETES)/kubelet' COPEPOD_ORACLE='$(ORACLE)'

test-setup: ## the real parts that the tests need (installs what is missing)
	@$(call INSTALL,$(TEST_TOOLS),make test)

# Kubernetes' own programs, from Go modules of one version (tests/kubernetes/go.mod). Built anew only
# when what they are built from has changed, by content: a clone's files are all new. The first time
# takes 8 minutes, later times are the linker's; Go keeps its caches where it always does.
KUBERNETES := $(CACHE)/kubernetes
KUBERNETES_VERSION := $(shell sed -nE 's/^\tk8s\.io\/kubernetes (v[0-9.]+)$$/\1/p' tests/kubernetes/go.mod)
# $(1) is `build`, or `test -c` for a program of tests.
GO_BUILD = cd tests/kubernetes && CGO_ENABLED=0 GOFLAGS=-mod=readonly go $(1) -trimpath -ldflags "-s -w \
    -X k8s.io/component-base/version.gitVersion=$(KUBERNETES_VERSION) \
    -X k8s.io/component-base/version.gitMajor=$(word 1,$(subst ., ,$(KUBERNETES_VERSION:v%=%))) \
    -X k8s.io/component-base/version.gitMinor=$(word 2,$(subst ., ,$(KUBERNETES_VERSION)))"
NEEDS_GO = command -v go >/dev/null || { echo "go is missing: install Go $$(sed -n 's/^go //p' tests/$(1)/go.mod) or newer, see https://go.dev/dl" >&2; exit 1; }
# Builds the package $(1) as $(KUBERNETES)/$(2), unless it is there and its sources are as they were; $(3) as above.
GO_PROGRAM = $(call NEEDS_GO,kubernetes); \
    mkdir -p '$(KUBERNETES)'; exec 9>'$(KUBERNETES)/lock'; flock 9; \
    sources=$$({ cat tests/kubernetes/{go.mod,go.sum,main.go}; echo '$(1)'; } | sha256sum); \
    [ -x '$(KUBERNETES)/$(2)' ] && [ "$$sources" = "$$(cat '$(KUBERNETES)/$(2).sources' 2>/dev/null)" ] || { \
        rm -f '$(KUBERNETES)/$(2).sources'; (exec 9>&-; $(call GO_BUILD,$(or $(3),build)) -o '$(KUBERNETES)/$(2).new' '$(1)'); \
        mv -f '$(KUBERNETES)/$(2).new' '$(KUBERNETES)/$(2)'; echo "$$sources" >'$(KUBERNETES)/$(2).sources'; }

kubernetes: ## the control plane and kubectl that the tests talk to, kept outside the checkout
	@$(TIME) ($(call GO_PROGRAM,.,kubernetes))

kubelet: ## the kubelet that the oracle, the conformance tests and the bench compare with
	@$(TIME) ($(call GO_PROGRAM,k8s.io/kubernetes/cmd/kubelet,kubelet))

# containerd of the second line with its shim and ctr, and a runc of its time, which Debian has not
# (tests/containerd/go.mod): 3 minutes the first time. The tests' own containerd is Debian's, unless
# COPEPOD_CONTAINERD names another folder of programs.
CONTAINERD2 := $(CACHE)/containerd2
CONTAINERD2_VERSION := $(shell sed -nE 's/^\tgithub\.com\/containerd\/containerd\/v2 (v[0-9.]+)$$/\1/p' tests/containerd/go.mod)
containerd2: ## containerd 2 and runc that some of the tests use, kept outside the checkout
	@$(call INSTALL,$(RUNC_TOOLS),make containerd2)
	@$(call NEEDS_GO,containerd); mkdir -p '$(CONTAINERD2)'; exec 9>'$(CONTAINERD2)/lock'; flock 9; \
	sources=$$(cat tests/containerd/{go.mod,go.sum,tools.go} | sha256sum); \
	[ "$$sources" = "$$(cat '$(CONTAINERD2)/sources' 2>/dev/null)" ] || { \
	    $(TIME) (exec 9>&-; rm -f '$(CONTAINERD2)/sources'; cd tests/containerd; export GOFLAGS='-mod=readonly -trimpath'; \
	        for program in containerd containerd-shim-runc-v2 ctr; do \
	            CGO_ENABLED=0 go build -ldflags '-s -w -X github.com/containerd/containerd/v2/version.Version=$(CONTAINERD2_VERSION)' \
	                -o '$(CONTAINERD2)/' "github.com/containerd/containerd/v2/cmd/$$program"; \
	        done; \
	        go build -tags seccomp -ldflags '-s -w' -o '$(CONTAINERD2)/' github.com/opencontainers/runc); \
	    echo "$$sources" >'$(CONTAINERD2)/sources'; }

# What upstream's tests are given and what they said: images, and the results of each run.
CONFORMANCE := $(CACHE)/conformance

e2e: ## upstream's conformance tests, their runner, and the program in most of their images
	@$(TIME) ($(call GO_PROGRAM,k8s.io/kubernetes/test/e2e,e2e.test,test -c); \
	    $(call GO_PROGRAM,github.com/onsi/ginkgo/v2/ginkgo,ginkgo); \
	    $(call GO_PROGRAM,k8s.io/kubernetes/test/images/agnhost,agnhost))

test: test-setup lint build guests kubernetes kubelet containerd2 e2e ## lint, build, and every test
	@$(TIME) $(PROGRAMS) cargo test --locked --release --workspace

# Each lifetime is its seed's; a failing one is shrunk, and told with what replays it.
SIM_LIFETIMES ?= 1000000
SIM_FROM ?= 0
sim: setup ## a million simulated lifetimes of a pod (SIM_LIFETIMES=N, SIM_FROM=SEED): 4 minutes, `test` has 100,000 of them
	@$(TIME) COPEPOD_SIM_LIFETIMES=$(SIM_LIFETIMES) COPEPOD_SIM_FROM=$(SIM_FROM) cargo test -q --locked --release -p copepod-pod \
	    sim::every_lifetime -- --nocapture

conformance: test-setup build guests kubernetes kubelet e2e ## upstream's tests of a node on the kubelet (once) and here: who passes what
	@$(TIME) $(PROGRAMS) cargo test -q --locked --release --workspace --test conformance -- --full

# What the kubelet did with each scenario, by what the scenario says: a changed one alone is run anew.
ORACLE := $(CACHE)/oracle

oracle: test-setup build guests kubernetes kubelet e2e ## tests/oracle's pods on the kubelet (kept), here, and here as Wasm: what differs
	@$(TIME) $(PROGRAMS) cargo test -q --locked --release --workspace --test oracle -- --full

crash-matrix: test-setup build guests kubernetes ## the agent's death at every boundary of four stories; `test` has a part of them
	@$(TIME) $(PROGRAMS) COPEPOD_CRASH_EVERY=1 cargo test -q --locked --release --workspace --test cluster -- crash::

# Control groups of version 2 and systemd's driver, which this host may not have: in a virtual machine
# with an emulated processor, so that it runs anywhere. Its disk is made once and kept in
# $(CACHE)/vm. Once more with version 1.
VM_TOOLS := qemu-system-x86_64:qemu-system-x86 debootstrap:debootstrap mke2fs:e2fsprogs
VM_KERNEL_PACKAGE := linux-image-cloud-amd64
VM_GROUPS = tests/vm/boot.sh tests/vm/groups.sh '$(BIN)/copepod-test' '$(BIN)/copepod' '$(BIN)/copepod-sandbox' wasm-examples/hog/hog.wasm "$$(command -v busybox)"

test-vm: build guests ## control groups with systemd, v2 and v1, in virtual machines without KVM: 8 minutes, not part of `test`
	@$(call INSTALL,$(VM_TOOLS),make test-vm)
	@ls /boot/vmlinuz-*cloud-amd64 >/dev/null 2>&1 || \
	    DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends $(VM_KERNEL_PACKAGE) >/dev/null
	@$(TIME) (test=$$(cargo test --locked --release --workspace --bin copepod --no-run --message-format=json | \
	        sed -n 's/.*"executable":"\([^"]*\/copepod-[0-9a-f]*\)".*/\1/p' | tail -1); \
	    strip -o '$(BIN)/copepod-test' "$$test"; \
	    $(VM_GROUPS); VM_KERNEL=systemd.unified_cgroup_hierarchy=0 $(VM_GROUPS))

# The command of the wasmtime that is linked (Cargo.toml), for comparison: built once, which takes a
# while, and kept outside the checkout.
WASMTIME_VERSION := $(shell sed -nE 's/^wasmtime = .*version = "=([0-9.]+)".*/\1/p' Cargo.toml)
WASMTIME := $(CACHE)/tools/bin/wasmtime

bench-setup: test-setup kubernetes kubelet ## what the bench compares with and measures by (installs what is missing)
	@$(call INSTALL,$(BENCH_TOOLS),make bench)
	@[ "$$($(WASMTIME) --version 2>/dev/null | cut -d' ' -f2)" = '$(WASMTIME_VERSION)' ] || \
	    CARGO_TARGET_DIR='$(CACHE)/tools/target' cargo install -q --locked --root '$(CACHE)/tools' \
	        wasmtime-cli --version '$(WASMTIME_VERSION)'

bench: build guests bench-setup ## start, requests per second, memory beside wasmtime's; a node beside the kubelet (ARGS="--output json")
	@export CRITERION_HOME='$(TARGET)/criterion'; rm -rf -- "$$CRITERION_HOME"; \
	    cargo bench -q --locked --workspace --bench step --bench log -- --noplot --quiet >&2; \
	    $(PROGRAMS) WASMTIME='$(WASMTIME)' cargo bench -q --locked --workspace --bench figures -- $(ARGS)

clean-cache: ## what this Makefile keeps outside the checkout
	rm -rf -- '$(CACHE)/target' '$(GUEST_TARGET)' '$(KUBERNETES)' '$(CONTAINERD2)' '$(CONFORMANCE)' '$(ORACLE)' '$(CACHE)/vm'
