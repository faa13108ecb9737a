# shellcheck shell=bash
# What the drills share.
. "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"

drill_usage() {
    cat <<USAGE
Usage: scripts/drills/${0##*/} [options]

$1

Two regions are started in a temporary directory on free ports, paired, initialised with one
master key, and used by clients all the while: root keys wrap, unwrap, come and go; a PKCS #11
application signs and encrypts; a storage service puts and gets objects. Printed are a timeline
from the fault on, the longest time in which nothing of a kind was done (RTO), and how many
acknowledged records are lost (RPO). The exit code is 0 only if every promise was kept.

  --runs N     repeat the fault so often, and print percentiles
  --seed N     repeat the chances of an earlier run
  --json       print JSON only
  --no-build   run what has been built already
  --help
USAGE
}

# build_release OPTION...
build_release() {
    command -v cargo >/dev/null || die "cargo is not installed; see https://rustup.rs"
    cargo build --release --locked --quiet --manifest-path "$ROOT/Cargo.toml" "$@"
}

# run_drill ABOUT NAME... -- OPTION...: no NAME runs all.
run_drill() {
    local about=$1 build=yes names=() options=()
    shift
    while [[ $1 != -- ]]; do names+=("$1") && shift; done
    shift
    while [[ $# -gt 0 ]]; do
        case $1 in
        --no-build) build='' ;;
        --help | -h) drill_usage "$about" && exit ;;
        *) options+=("$1") ;;
        esac
        shift
    done
    if [[ -n $build ]]; then
        build_release -p hsm-emulator -p cos-service -p pkcs11-shim -p integration-tests
    fi
    [[ -x $BIN/drill ]] || die "$BIN/drill is not built: leave --no-build out"
    exec "$BIN/drill" "${names[@]}" "${options[@]}"
}
