# Steps, their times, and the closing line "N passed, N failed". Sourced by ./run.

report_begin() {
    PASSED=0 FAILED=0 TIMES=() FAILURES=()
    STARTED=$SECONDS
    LOG=$(mktemp)
    trap 'rm -f "$LOG"' EXIT
}

# step NAME COMMAND...: one check; it passes or fails as a whole, and the others go on.
step() {
    local name="$1" begun=$SECONDS status
    shift
    echo "==> $name"
    # Not `if "$@"`: there a shell function would run on past its first failure.
    set +e
    (set -e && "$@")
    status=$?
    set -e
    if [ "$status" = 0 ]; then PASSED=$((PASSED + 1)); else
        FAILED=$((FAILED + 1))
        FAILURES+=("$name")
        echo "==> $name FAILED: $*"
    fi
    TIMES+=("$(printf '%4d s  %s' $((SECONDS - begun)) "$name")")
}

# suite NAME COMMAND...: a test runner; its own counts are summed.
suite() {
    local name="$1" begun=$SECONDS status=0 passed failed
    shift
    echo "==> $name"
    "$@" 2>&1 | tee "$LOG" || status=$?
    passed=$(sed -n 's/^test result: .* \([0-9]*\) passed; .*/\1/p' "$LOG" | awk '{n+=$1} END {print n+0}')
    failed=$(sed -n 's/^test result: .* \([0-9]*\) failed; .*/\1/p' "$LOG" | awk '{n+=$1} END {print n+0}')
    # A runner that failed without counting a failure did not even start (or died).
    if [ "$status" != 0 ] && [ "$failed" = 0 ]; then failed=1; fi
    PASSED=$((PASSED + passed))
    FAILED=$((FAILED + failed))
    while IFS= read -r line; do FAILURES+=("$line"); done < <(sed -n 's/^test \(.*\) \.\.\. FAILED$/\1/p' "$LOG" | sort -u)
    if [ "$status" != 0 ] && [ ${#FAILURES[@]} = 0 ]; then FAILURES+=("$name"); fi
    TIMES+=("$(printf '%4d s  %s' $((SECONDS - begun)) "$name")")
}

# Ends the script.
report_end() {
    echo
    echo "time by step:"
    printf '  %s\n' "${TIMES[@]}" "$(printf '%4d s  %s' $((SECONDS - STARTED)) "all")"
    if [ "$FAILED" != 0 ]; then
        echo "failed:"
        printf '  %s\n' "${FAILURES[@]}"
    fi
    echo "$PASSED passed, $FAILED failed"
    [ "$FAILED" = 0 ] && exit 0
    exit 1
}
