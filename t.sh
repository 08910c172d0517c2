#!/bin/bash
# t.sh OUT FILTERS...: build and run inside one slot
cd /tmp/wt/scenes; out=$1; shift
cargo test -p watari-testbed --test scenarios --no-run > $out.build 2>&1 || { grep -A12 "^error" $out.build; exit 1; }
T=$(grep -o 'target/debug/deps/scenarios-[0-9a-f]*' $out.build | tail -1)
RUST_BACKTRACE=0 timeout ${TMO:-180} $T "$@" > $out 2>&1
