# Every task of the project. Each recipe is one plain command, so that nobody needs `just`.

# List the tasks
default:
    @just --list

# Start the whole shop on this machine, until Ctrl-C
run *options:
    cargo run -- {{ options }}

# Build the program as it is measured and shipped: target/dist/shop
dist:
    cargo build --profile dist -p shop

# Fill a shop that is open with products, customers and orders
seed *options:
    cargo run -- seed {{ options }}

# Start it and play a customer's story first, with every number checked
demo:
    cargo run -- --demo

# Start it with a new, empty data folder
fresh:
    cargo run -- --data-dir "$(mktemp -d)"

# Start it on three nats-servers, with two host processes for every kind and two bridges, until Ctrl-C
cluster *options:
    cargo run --profile dist -p shop-tests --example cluster -- {{ options }}

# Restart every process twice under siege, first in good order, then by kill -9, and count who was turned away (siege and haproxy are needed: apt-get install siege haproxy); `just rolling --access keys`: with keys, TLS and tokens
rolling *options:
    cargo run --profile dist -p shop-tests --example rolling -- {{ options }}

# Order without a pause while a second and a third host come, one is killed, and two leave again; shows who owns what meanwhile
scale *options:
    cargo run --profile dist -p shop-tests --example scale -- {{ options }}

# Cut shops with 100,000 and with 1,000,000 wallets into 12 partitions while customers order; shows how long what takes
repartition *options:
    cargo run --profile dist -p shop-tests --example repartition -- {{ options }}

# Run every test
test:
    cargo test

# Run the tests of one crate, for example `just test-of shop-domain`
test-of crate:
    cargo test -p {{ crate }}

# Simulate with fresh seeds for so many seconds: crashes, holes, lost acknowledgements, second hosts
sim seconds="60":
    SHOP_SIM_SECONDS={{ seconds }} cargo test --profile dist -p shop-simulation --test simulation -- --ignored --nocapture fresh_seeds

# Try every pair of troubles at any two moments of an order, and every interleaving of two that are cancelled
sim-all:
    cargo test --profile dist -p shop-domain -p shop-simulation --test shop --test simulation -- --ignored --nocapture any_two two_rivals

# Plant one fault after the other, and see that the simulation finds each
mutants:
    cargo test -p shop-tests --test mutants -- --ignored --nocapture

# Change the shop's rules in every way that cargo-mutants knows (it is needed); a test other than the long `interleavings` must fail
mutants-domain:
    CARGO_PROFILE_DEV_OPT_LEVEL=0 CARGO_PROFILE_DEV_DEBUG=false cargo mutants -p shop-domain --timeout 60 -o target -- --lib --test shop -- --skip interleavings

# Kill, freeze, starve and cut a real shop under load for so many seconds; prints what was survived. `just torture 300 keys`: with keys, TLS and tokens; `none`: without; otherwise with every other seed
torture seconds="300" access="":
    SHOP_TORTURE_SECONDS={{ seconds }} SHOP_TORTURE_ACCESS={{ access }} cargo test --profile dist -p shop-tests --test torture -- --ignored --nocapture fresh_seeds

# The same with three nats-servers: killed, frozen, cut off, robbed of their leadership, and hosts killed as well
torture-cluster seconds="300" access="":
    SHOP_TORTURE_SECONDS={{ seconds }} SHOP_TORTURE_ACCESS={{ access }} cargo test --profile dist -p shop-tests --test torture -- --ignored --nocapture three_servers

# The same with three hosts for all kinds: killed, stopped, frozen, cut off, and lied to about each other for a minute
torture-hosts seconds="300" access="":
    SHOP_TORTURE_SECONDS={{ seconds }} SHOP_TORTURE_ACCESS={{ access }} cargo test --profile dist -p shop-tests --test torture -- --ignored --nocapture several_hosts

# The same on three machines, made of network namespaces (it takes root and iproute2): cut off one by one, all at once, again and again
torture-partition seconds="300" access="":
    SHOP_TORTURE_SECONDS={{ seconds }} SHOP_TORTURE_ACCESS={{ access }} cargo test --profile dist -p shop-tests --test torture -- --ignored --nocapture three_machines

# Measure the shop beside PostgreSQL and the limits of this machine, in a quarter of an hour (`just bench --quick`: a minute)
bench *options:
    cargo bench --profile dist -p shop-tests --bench shop -- --json tests/bench/results/shop.json --table tests/bench/results/shop.txt --svg tests/bench/results/shop.svg {{ options }}

# Measure what is hot, piece by piece: frames, entities, checkpoints
bench-pieces *options:
    cargo bench --profile dist -p shop-nats -p shop-actors --bench frame --bench entities --bench checkpoint -- {{ options }}

# What the compiler and clippy have to say, tests included
lint:
    cargo clippy --workspace --all-targets -- -D warnings

# Format the code
fmt:
    cargo fmt --all

# Check licences, and who may depend on what
deny:
    cargo deny check licenses bans sources

# Check what is known against the libraries that are used (it fetches a database from github.com)
advisories:
    cargo deny check advisories

# Write down what the program is made of, as CycloneDX: deploy/shop/shop_bin.cdx.json (cargo-cyclonedx is needed: cargo install --locked cargo-cyclonedx)
sbom:
    cargo cyclonedx --manifest-path deploy/shop/Cargo.toml --describe binaries --format json --spec-version 1.5

# Read the documentation of the crates
doc:
    cargo doc --workspace --no-deps --open

# Build the program with snapshots in buckets, and make an image of it without a daemon or a registry: target/shop.tar, an OCI layout
image name="shop:0.1.0":
    cargo build --profile dist -p shop --features cloud
    deploy/image/oci.sh target/dist/shop {{ name }} target/shop.tar

# Try the shop on a cluster of yours: applies it, orders ten apples, takes it away (kubectl and an image that the cluster has are needed)
kubernetes image *context:
    deploy/kubernetes/try.sh {{ image }} {{ context }}

# Build the programs of a test cluster into the user's cache, once: half an hour on two cores (it takes root, Go and Debian's packages)
kubernetes-cluster:
    tests/kubernetes/build.sh

# Prove on a real Kubernetes on this machine, row by row, what deploy/kubernetes/README.md says (after `just dist` and `just kubernetes-cluster`)
kubernetes-proof *rows:
    tests/kubernetes/proof.sh {{ rows }}

# Everything that has to pass before a change lands
ci:
    .ci/run

# Say where the nats-server is, and fetch one if there is none
nats:
    nats/install.sh

# Forget everything the shop knows: deletes the data folder
forget:
    rm -r .shop
