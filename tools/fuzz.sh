# Fuzzing with libFuzzer on the pinned compiler. Sourced by ./run.
#
# A target is `fuzz/fuzz_targets/NAME.rs`, its seeds are `fuzz/seeds/NAME/`. What it learns and
# what it finds stays in `target/fuzz/NAME/`. The flags are those of cargo-fuzz without a sanitizer
# (there is no unsafe code to watch), so neither it nor a nightly compiler is needed.

fuzz_build() {
    local flags="--cfg fuzzing -Cpasses=sancov-module -Cdebug-assertions"
    local option
    for option in level=4 inline-8bit-counters pc-table trace-compares; do
        flags+=" -Cllvm-args=-sanitizer-coverage-$option"
    done
    RUSTFLAGS="$flags" CARGO_PROFILE_RELEASE_LTO=off CARGO_PROFILE_RELEASE_CODEGEN_UNITS=16 CARGO_PROFILE_RELEASE_STRIP=none \
        CARGO_PROFILE_RELEASE_DEBUG=line-tables-only \
        cargo build --release --locked --target "$(triple)" --target-dir target/fuzz/build \
        -p watari-fuzz --features fuzz
}

# fuzz_one NAME SECONDS
fuzz_one() {
    local name="$1" seconds="$2" dir="target/fuzz/$1"
    local seeds="fuzz/seeds/$name"
    [ -d "$seeds" ] || seeds=
    mkdir -p "$dir/corpus" "$dir/found"
    "target/fuzz/build/$(triple)/release/$name" -max_total_time="$seconds" -max_len=65536 \
        -timeout=10 -rss_limit_mb=1024 -print_final_stats=1 -verbosity=0 \
        -artifact_prefix="$dir/found/" "$dir/corpus" ${seeds:+"$seeds"}
}

fuzz_all() {
    local target
    need g++:g++
    step "fuzz build" fuzz_build
    for target in fuzz/fuzz_targets/*.rs; do
        target=$(basename "$target" .rs)
        step "fuzz $target" fuzz_one "$target" "$1"
    done
}
