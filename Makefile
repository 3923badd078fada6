# Two commands: `make demo` shows it, `make test` proves it. Each does its own set-up.
.PHONY: help demo test setup build runtime tools client aedes lint deny audit figures bench faults soak service-test judge model model-check model-cuda model-peers clean

help:
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 22

demo: setup ## show questions answered over the socket and over MQTT
	cargo build --release --locked
	tests/demo/run.sh

test: setup client aedes tools ## format, lints, licences, every test
	@.ci/need-rust tests
	.ci/test

setup: ## what building and running needs: system packages, ONNX Runtime, Mosquitto
	@.ci/need-rust
	@.ci/need-packages
	@cross/fetch-runtime.sh
	@.ci/need-mosquitto

build: setup ## the release binary
	cargo build --release --locked

runtime: ## the pinned ONNX Runtime, into .runtime/
	@cross/fetch-runtime.sh

.PHONY: deb deb-test
deb: build ## the Debian packages of this machine's architecture, with their digests, into dist/
	cross/deb/build.sh

deb-test: deb ## lintian, contents, install, upgrade, remove and purge of the packages in dist/; as root
	@.ci/need-lintian
	lintian --allow-root --fail-on error,warning --tag-display-limit 0 dist/*.deb
	MOED_DEBS=dist cargo test --locked --test packages

.PHONY: cross cross-deb cross-test
cross: ## the daemon for aarch64 Linux, glibc 2.31 or newer, from an x86-64 Debian or Ubuntu
	cross/build.sh

cross-deb: cross ## its packages, into dist/
	cross/setup.sh --emulation
	RUN="$(CURDIR)/.cross/emulate $(CURDIR)/target/cross/aarch64-unknown-linux-gnu/release/moed" cross/deb/build.sh arm64

cross-test: build cross ## runs it under qemu and compares its answers: 5 minutes, after two release builds
	cross/test.sh

.PHONY: gpu-check
gpu-check: build ## what an NVIDIA GPU makes of it, into tests/reports/; RUNTIME=FOLDER names an ONNX Runtime with CUDA
	cross/gpu-check.sh

tools:
	@.ci/need-cargo-deny

client: ## the Python clients that the tests ask with, into .venv/
	@.ci/need-clients

service-test: $(if $(DEBS),setup,deb) ## the service and its packages under real systemds, as root: 20 minutes; DEBS=FOLDER takes those packages
	@tests/boot/root.sh trixie .boot/trixie || true
	MOED_BOOT=all MOED_BOOT_DEBS=$(abspath $(or $(DEBS),dist)) cargo test --locked --test boot -- --nocapture

aedes: # a broker in JavaScript that the tests run beside Mosquitto, into .tools/
	@.ci/need-aedes

lint:
	cargo fmt --check
	cargo clippy --locked --all-targets -- -D warnings

deny: tools
	.tools/bin/cargo-deny --locked check licenses bans sources

audit: tools ## known advisories; needs the network
	.tools/bin/cargo-deny --locked check advisories

figures: setup ## the figures of the README, measured here
	cargo bench --locked --bench figures

bench: setup ## moed beside its peers, 20 pairs a row: 25 minutes on a quiet machine, the first time as long again
	tests/bench/setup.sh venv llama models
	cargo build --release --locked
	.bench/venv/bin/python tests/bench/run.py $(BENCH)

faults: setup ## the fault suite whole: 4,000 requests a scenario through kills of daemon and broker, a freeze, a full disk, a set clock; its table into tests/reports/
	tests/faults/run.sh

soak: setup ## the mix for an hour, or MINUTES=: bounded memory, counts at the end
	MINUTES="$(MINUTES)" tests/faults/run.sh soak

judge: build ## scores what is shipped, through the daemon; OUTSIDE=FILE adds a set of somebody else's
	cd models && OUTSIDE= python3 -m judge --moed ../target/release/moed --file judge/splits.jsonl
	cd models && OUTSIDE= python3 -m judge --moed ../target/release/moed
	cd models && python3 -m judge.own_home
	$(if $(OUTSIDE),cd models && OUTSIDE="$(abspath $(OUTSIDE))" python3 -m judge --moed ../target/release/moed,@echo "OUTSIDE is not set, so no outside set is scored")

MODELS_VENV ?= $(CURDIR)/.venv-models
model: ## the default model from nothing, TOKENS=40e6: four hours of two idle cores
	@MODELS_VENV="$(MODELS_VENV)" .ci/need-models
	PYTHON="$(MODELS_VENV)/bin/python" TOKENS="$(TOKENS)" RUN="$(RUN)" NAME="$(NAME)" models/make.sh

model-check: ## the shipped graph and every model family against PyTorch
	@MODELS_VENV="$(MODELS_VENV)" .ci/need-models
	cd models && "$(MODELS_VENV)/bin/python" -m export.check
	cd models && "$(MODELS_VENV)/bin/python" -m export.families

model-cuda: ## the default model's form for NVIDIA GPUs, into models/default/cuda/: the daemon takes it where it computes on one
	@MODELS_VENV="$(MODELS_VENV)" .ci/need-models
	cd models && "$(MODELS_VENV)/bin/python" -m export.cuda

model-peers: ## greedy answers of the shipped graph, onnxruntime-genai, transformers and llama.cpp beside each other, 200 prompts
	tests/bench/setup.sh venv llama
	cd models && "$(CURDIR)/.bench/venv/bin/python" -m export.peers --server "$(CURDIR)/.bench/llama/bin/llama-server"

clean:
	rm -rf target dist .boot .cross .runtime .runtime-* .tools .venv .venv-models
