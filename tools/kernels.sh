# Other kernels than this machine's: Debian's packages, unpacked, booted in qemu with a small
# initramfs that holds the tests of edge/bpf. Sourced by ./run.

KERNELS="$PWD/target/kernels"
KERNEL_TESTS="${KERNEL_TESTS:-}" # only tests whose name holds this
BOOT_SECONDS=900 # deadline of one kernel: it is emulated, and other builds may run beside it
KERNEL_TOOLS="qemu-system-x86_64:qemu-system-x86 busybox:busybox-static cpio:cpio xz:xz-utils
    ip:iproute2 tc:iproute2 ping:iputils-ping sysctl:procps bpftool:bpftool"

# What the tests need of a kernel that Debian builds as modules, in the order of loading.
KERNEL_MODULES="af_packet veth sch_ingress cls_bpf act_mirred dummy"

# One package of each series that the archive has, the newest of it.
kernel_packages() {
    apt-cache search --names-only '^linux-image-[0-9.]+[^ ]*-cloud-amd64$' | cut -d' ' -f1 |
        sort -V | awk '{ split($1, part, /[-.+]/); newest[part[3] "." part[4]] = $1 }
            END { for (series in newest) print newest[series] }' | sort -V
}

# unpack_package NAME|FILE.deb: prints where it is unpacked.
unpack_package() {
    local into="$KERNELS/$(basename "$1" .deb)" deb
    if [ ! -e "$into/done" ]; then
        rm -rf "$into" && mkdir -p "$into/deb"
        if [ -f "$1" ]; then cp "$1" "$into/deb/"; else
            # Not as the user _apt, who may not write here.
            (cd "$into/deb" && as_root apt-get -q -o APT::Sandbox::User=root download "$1") >&2
        fi
        deb=("$into"/deb/*.deb)
        dpkg -x "${deb[0]}" "$into"
        rm -rf "$into/deb"
        touch "$into/done"
    fi
    echo "$into"
}

# copy_program FILE ROOT: the program and the libraries that it is linked with, where they are here.
copy_program() {
    local file
    for file in "$1" $(ldd "$1" 2>/dev/null | grep -o '/[^ ]*'); do
        mkdir -p "$2$(dirname "$file")"
        cp -Ln "$file" "$2$file"
    done
}

# copy_modules UNPACKED ROOT: those that the kernel has as modules, uncompressed.
copy_modules() {
    local module file number=10
    mkdir -p "$2/modules"
    for module in $KERNEL_MODULES; do
        # Where it is built in, there is none.
        file=$(find "$1" -name "$module.ko*" | head -n1)
        [ -n "$file" ] || continue
        case "$file" in
        *.xz) xz -dc "$file" ;;
        *.gz) gzip -dc "$file" ;;
        *) cat "$file" ;;
        esac >"$2/modules/$number-$module.ko"
        number=$((number + 1))
    done
}

init_script() {
    cat <<INIT
#!/bin/busybox sh
export PATH=/usr/sbin:/usr/bin:/sbin:/bin RUST_BACKTRACE=0
/bin/busybox --install -s /bin
mkdir -p /proc /sys /dev /tmp /run /var/tmp
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
mount -t bpf bpf /sys/fs/bpf
mount -t tmpfs tmpfs /tmp
for module in /modules/*.ko; do insmod \$module || echo "cannot load \$module"; done
ip link set lo up
echo "kernel \$(uname -r)"
WATARI_OTHER_OBJECT=/other-abi.o WATARI_WITHOUT="$1" /suite --test-threads 2 $KERNEL_TESTS
echo "the suite ended with \$?"
poweroff -f
INIT
}

# make_initramfs UNPACKED SUITE WITHOUT OUT: WITHOUT names what the kernel lacks.
make_initramfs() {
    local root tool
    root=$(mktemp -d "$KERNELS/root.XXXXXX")
    mkdir -p "$root/bin"
    cp "$(command -v busybox)" "$root/bin/busybox"
    for tool in ip tc ping sysctl bpftool; do
        copy_program "$(readlink -f "$(command -v "$tool")")" "$root"
    done
    copy_program "$2" "$root"
    strip -o "$root/suite" "$root$2"
    rm "$root$2"
    cp "$OTHER_OBJECT" "$root/other-abi.o"
    copy_modules "$1" "$root"
    init_script "$3" >"$root/init"
    chmod +x "$root/init"
    (cd "$root" && find . | cpio -o -H newc --quiet | gzip -1) >"$4"
    rm -rf "$root"
}

# boot KERNEL INITRAMFS: what the tests print; fails unless the suite came to a good end.
boot() {
    local log status=0
    log=$(mktemp)
    timeout "$BOOT_SECONDS" qemu-system-x86_64 -m 1536 -smp 2 -no-reboot \
        -display none -monitor none -serial stdio -nic none \
        -kernel "$1" -initrd "$2" -append "console=ttyS0 panic=-1 quiet" </dev/null |
        tr -d '\r' | tee "$log" || status=$?
    if [ "$status" = 124 ]; then echo "the kernel did not end in $BOOT_SECONDS s"; fi
    grep -q '^the suite ended with 0$' "$log" || status=1
    rm -f "$log"
    return "$status"
}

# The tests' program, and the object of the other layout, which its tests of upgrades compile when
# they run: so they run here first.
build_kernel_suite() {
    local messages
    messages=$(cargo test --locked -p watari-bpf --test suite --no-run --message-format=json)
    SUITE=$(sed -n 's/.*"executable":"\([^"]*\/suite-[^"]*\)".*/\1/p' <<<"$messages" | tail -n1)
    as_root "$SUITE" migrate::
    OTHER_OBJECT=$(find "$(dirname "$SUITE")/../../tmp/other-abi" -name watari-programs -path '*/kernel/*' | head -n1)
    [ -x "$SUITE" ] && [ -s "$OTHER_OBJECT" ]
}

# check_kernel UNPACKED KERNEL: all tests on that kernel; their counts are summed.
check_kernel() {
    local unpacked="$1" kernel="$2" version without="" image
    version=$(basename "$kernel" | sed 's/^vmlinuz-//')
    # tcx came with Linux 6.6.
    [ "$(printf '%s\n' 6.6 "$version" | sort -V | head -n1)" = 6.6 ] || without=tcx
    image="$KERNELS/$version.$$.img"
    make_initramfs "$unpacked" "$SUITE" "$without" "$image"
    suite "kernel $version${without:+ (which has no $without)}" boot "$kernel" "$image"
    rm -f "$image"
}

# check_package NAME|FILE: a package of a kernel, or the image of one that needs no modules.
check_package() {
    local unpacked
    case "$1" in
    *.deb | linux-image-*)
        unpacked=$(unpack_package "$1")
        check_kernel "$unpacked" "$(find "$unpacked/boot" -name 'vmlinuz-*' | head -n1)"
        ;;
    *) check_kernel "$(mktemp -d "$KERNELS/none.XXXXXX")" "$1" ;;
    esac
}
