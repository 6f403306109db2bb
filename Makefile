# The commands that people and CI use; each is one line to type and works on a machine with Rust and nothing else.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
TOOLS := bash deploy/local/tools.sh
# `cargo bench` makes a program of its own in the same place, optimized as the bare loops are: the released one is put aside.
RELEASED = cargo build --release --locked --bin sluice && mkdir -p target/bench && cp target/release/sluice target/bench/sluice && \
	BENCH_SLUICE="$$PWD/target/bench/sluice"

.PHONY: help build image reproducible demo test cluster cluster-stop manifests soak soak-controllers torture torture-nodes endurance lint bench bench-controllers bench-docker bench-kubernetes instructions clean-cache

help: ## list the commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-17s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

build: ## the binary, optimized: target/release/sluice
	cargo build --release --locked --bin sluice

image: ## the image that executions run in: into the Docker engine, else into target/image
	@bash deploy/local/image.sh

reproducible: ## two builds from nothing, and whether they are the same image; CRATE_ONLY=1 keeps what others wrote
	@bash deploy/local/reproducible.sh

demo: ## servers up, a pipeline published, documents flow, all stopped again
	@bash deploy/local/demo.sh

test: ## every test, on real servers; what they need beside Rust is found or installed while the code compiles
	@$(TOOLS) nats-server database ferretdb nats valgrind docker registry kubernetes helm servicemonitor >/dev/null & tools=$$!; \
	cargo test --locked --no-run || { kill $$tools 2>/dev/null; exit 1; }; \
	wait $$tools || echo 'make: not all tools could be had: the tests that need them say so' >&2; \
	cargo test --locked

cluster: ## a real Kubernetes cluster of one node, until Ctrl-C; built once, 5 to 8 minutes; says what KUBECONFIG is
	@bash deploy/local/cluster.sh person

cluster-stop: ## ends what `make cluster` runs
	@bash deploy/local/cluster.sh stop

manifests: ## deploy/kubernetes/sluice.yaml, rendered from the chart
	@bash deploy/local/manifests.sh >deploy/kubernetes/sluice.yaml.new
	@mv deploy/kubernetes/sluice.yaml.new deploy/kubernetes/sluice.yaml

soak: ## simulated lives of the core, SEEDS=100000 of them from FROM=1 on; one that fails is shrunk and printed
	SLUICE_SIMULATION_SEEDS="$${SEEDS:-100000}" SLUICE_SIMULATION_FROM="$${FROM:-1}" cargo test --locked --lib simulation::under_any_faults -- --nocapture

soak-controllers: ## ten minutes of controllers that come and go, and edits, under a load; SLUICE_SOAK_SEED=N repeats one
	@$(TOOLS) nats-server database >/dev/null
	SLUICE_SOAK_SECONDS="$${SLUICE_SOAK_SECONDS:-600}" cargo test --locked --test it controllers::soak -- --nocapture

torture: ## ten minutes of kills, stops, cuts and failures under a load, with an account at the end; SLUICE_SOAK_SEED=N repeats one
	@$(TOOLS) nats-server database >/dev/null
	SLUICE_SOAK_SECONDS="$${SLUICE_SOAK_SECONDS:-600}" cargo test --locked --test it torture::whatever_dies -- --nocapture

torture-nodes: ## ten minutes for each way to trouble three nats-servers: leaders killed, nodes cut off, streams scaled down
	@$(TOOLS) nats-server database >/dev/null
	SLUICE_SOAK_SECONDS="$${SLUICE_SOAK_SECONDS:-600}" cargo test --locked --test it nodes:: -- --nocapture --test-threads 1

endurance: ## the long forms: half an hour without a database, 10,000 entries, a refusal nobody knows until it is a dead letter
	@$(TOOLS) nats-server database >/dev/null
	SLUICE_OUTAGE_SECONDS="$${SLUICE_OUTAGE_SECONDS:-1800}" SLUICE_ENTRIES="$${SLUICE_ENTRIES:-10000}" SLUICE_PATIENCE=1 \
		cargo test --locked --test it -- --nocapture --test-threads 1 pipelines::outages pipelines::scale::thousands pipelines::shared

lint: ## formatting, clippy, licences, banned crates, sources, advisories
	cargo fmt --check --all
	cargo fmt --check --manifest-path benches/hot_path/Cargo.toml
	cargo clippy --all-targets --locked -- -D warnings
	cargo clippy --lib --example produce --no-default-features --features transfer --locked -- -D warnings
	@bash deploy/local/deny.sh

bench: ## documents per second, CPU and memory beside the bare loops; options: make bench ARGS='--help'
	$(RELEASED) cargo bench --locked --bench throughput -- $(ARGS)

bench-controllers: ## documents per second of one controller and of two, in turns; options: make bench-controllers ARGS='--rounds 5'
	$(RELEASED) cargo bench --locked --bench throughput -- --only one,two \
		--contender 'one=exec bash benches/controllers.sh 1' --contender 'two=exec bash benches/controllers.sh 2' \
		--json target/bench/controllers.json $(ARGS)

bench-docker: build ## how long an entry takes to become a running container, beside `docker run`; ROUNDS=10 MANY=100
	@bash deploy/local/bench-docker.sh

bench-kubernetes: build ## how long an entry takes to become an available Deployment, beside `kubectl apply`; ROUNDS=10
	@bash deploy/local/bench-kubernetes.sh

instructions: ## instructions per document of the hot path, counted by valgrind
	@bash deploy/local/instructions.sh

clean-cache: ## remove the tools that were installed into the cache
	rm -rf "$${SLUICE_CACHE:-$$HOME/.cache/sluice}/tools"
