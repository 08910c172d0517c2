# What the commands need from the machine, and how it gets there. Sourced by ./run.

export DEBIAN_FRONTEND=noninteractive CARGO_TERM_COLOR=never CARGO_TERM_PROGRESS_WHEN=never
export CARGO_NET_RETRY=5
export PATH="$HOME/.cargo/bin:$PATH:/usr/sbin:/sbin"
DENY_VERSION=0.20.2
BPF_LINKER_VERSION=0.13.0
BPF_LLVM=22 # what that version links with

# Command → Debian package. The plugins and the runtime are what the tests compare with and call.
# Of the two programs called arping, the tests read what that of iputils says.
TEST_TOOLS="containerd:containerd runc:runc nft:nftables conntrack:conntrack ip:iproute2
    ping:iputils-ping curl:curl tcpdump:tcpdump /usr/bin/arping:iputils-arping iptables:iptables
    busybox:busybox-static bpftool:bpftool nsenter:util-linux /usr/lib/cni/ptp:containernetworking-plugins"

triple() { rustc -vV | sed -n 's/^host: //p'; }

is_root() { [ "$(id -u)" = 0 ]; }

as_root() { if is_root; then "$@"; else sudo -n -E "$@"; fi; }

# Before anything is built: what is built makes network namespaces.
need_root() {
    is_root || sudo -n true 2>/dev/null || {
        echo "this makes network namespaces: run it as root, or with password-less sudo" >&2
        return 1
    }
}

is_debian() { [ -r /etc/debian_version ] && command -v apt-get >/dev/null; }

can_install() { is_debian && { is_root || sudo -n true 2>/dev/null; }; }

have() { case "$1" in /*) [ -e "$1" ] ;; *) command -v "$1" >/dev/null ;; esac; }

# install PACKAGE...: from Debian; elsewhere say exactly what is missing.
install() {
    if ! can_install; then
        echo "missing: $*" >&2
        echo "These are Debian package names. Install them (or their like) with your package manager," >&2
        echo "or run this as root or with password-less sudo on Debian 12, where it installs them itself." >&2
        return 1
    fi
    echo "installing from Debian: $*"
    # A list that is missing or old would choose a package that is gone, or too old.
    as_root apt-get -q update || echo "apt-get update failed: going on with the lists that are there"
    as_root apt-get -q -o Dpkg::Use-Pty=0 install -y --no-install-recommends "$@"
}

# need COMMAND:PACKAGE...: install the packages of the commands that are not there.
need() {
    local pair missing=()
    for pair in "$@"; do have "${pair%%:*}" || missing+=("${pair##*:}"); done
    [ ${#missing[@]} = 0 ] || install "${missing[@]}"
}

pinned() { sed -n 's/^channel = "\(.*\)"/\1/p' rust-toolchain.toml; }

new_enough() {
    have cargo && have rustc &&
        [ "$(printf '%s\n' "$(pinned)" "$(rustc --version | cut -d' ' -f2)" | sort -V | head -n1)" = "$(pinned)" ]
}

# rustup fetches the version of rust-toolchain.toml by itself. Without rustup, Debian 12 has a
# Rust new enough under the names *-web, in its security updates; its plain `cargo` is too old.
need_toolchain() {
    need cc:gcc /usr/include/stdio.h:libc6-dev /etc/ssl/certs/ca-certificates.crt:ca-certificates
    if have rustup; then
        rustup -q show active-toolchain >/dev/null 2>&1 ||
            rustup -q toolchain install "$(pinned)" --profile minimal -c rustfmt -c clippy
    elif ! new_enough; then
        install cargo-web rustc-web rustfmt-web rust-web-clippy || true
    fi
    if ! new_enough; then
        echo "Rust $(pinned) is needed. Install rustup (https://rustup.rs), or on Debian 12 enable" >&2
        echo "the security updates and run this again." >&2
        return 1
    fi
}

# The eBPF programs want a compiler with a core library for their target, which the pinned one has
# not, and a linker of their own. edge/bpf/build/object.rs looks for both in the same places.
need_bpf() {
    if [ -z "${WATARI_BPF_RUSTC:-}" ] && ! bpf_compiler_of_rustup; then
        need /usr/bin/rustc:rustc-web \
            /usr/lib/rustlib/bpfel-unknown-none/lib:libstd-rust-web-dev-bpf || {
            echo "Or: rustup toolchain install nightly --component rust-src" >&2
            return 1
        }
    fi
    have bpf-linker || install_bpf_linker
}

# A nightly with the source of the core library does as well.
bpf_compiler_of_rustup() {
    local sysroot
    have rustup || return 1
    sysroot=$(rustup run nightly rustc --print sysroot 2>/dev/null) || return 1
    [ -d "$sysroot/lib/rustlib/src/rust/library/core" ]
}

install_bpf_linker() {
    local llvm="${LLVM_PREFIX:-/usr/lib/llvm-$BPF_LLVM}"
    need "$llvm/bin/llvm-config:llvm-$BPF_LLVM-dev" "c++:g++" \
        "$llvm/lib/libPolly.a:libpolly-$BPF_LLVM-dev" /usr/include/zlib.h:zlib1g-dev \
        /usr/include/zstd.h:libzstd-dev /usr/include/libxml2/libxml/parser.h:libxml2-dev || {
        echo "bpf-linker $BPF_LINKER_VERSION is built with LLVM $BPF_LLVM: say where it is in LLVM_PREFIX." >&2
        return 1
    }
    echo "installing bpf-linker $BPF_LINKER_VERSION (about two minutes, once)"
    LLVM_PREFIX="$llvm" LLVM_SYS_221_PREFIX="$llvm" PATH="$llvm/bin:$PATH" \
        RUSTFLAGS="-L $llvm/lib" cargo install bpf-linker --version "=$BPF_LINKER_VERSION" \
        --no-default-features --features "llvm-$BPF_LLVM" --locked --quiet
}

need_deny() {
    cargo deny --version >/dev/null 2>&1 && return
    echo "installing cargo-deny $DENY_VERSION (about two minutes, once)"
    cargo install cargo-deny --version "=$DENY_VERSION" --locked --quiet
}

# The tests make network namespaces, so they run as root: through sudo when cargo does not.
cargo_test() {
    is_root || export "CARGO_TARGET_$(triple | tr 'a-z-' 'A-Z_')_RUNNER=sudo -n -E"
    cargo test --workspace --locked --no-fail-fast "$@"
}

need_kernels() {
    need_root
    # shellcheck disable=SC2086 # a list of words
    need $KERNEL_TOOLS
    need_toolchain
    need_bpf
}

need_everything() {
    need_root
    # shellcheck disable=SC2086 # a list of words
    need $TEST_TOOLS
    need_toolchain
    need_bpf
    need_deny
    cargo fetch --locked --quiet
}
