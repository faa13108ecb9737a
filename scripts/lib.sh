# shellcheck shell=bash disable=SC2034
# What the scripts share. Needs bash and coreutils, nothing else.

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
BIN=${CARGO_TARGET_DIR:-$ROOT/target}/release
DEFAULT_STATE=${XDG_DATA_HOME:-$HOME/.local/share}/hsm-emulator

if [[ -t 2 && -z ${NO_COLOR:-} ]]; then
    BOLD=$'\e[1m' GREEN=$'\e[32m' RED=$'\e[31m' PLAIN=$'\e[0m'
else
    BOLD='' GREEN='' RED='' PLAIN=''
fi

say() { printf '%s%s%s\n' "$BOLD" "$*" "$PLAIN" >&2; }
note() { printf '  %s\n' "$*" >&2; }
die() {
    printf '%serror:%s %s\n' "$RED" "$PLAIN" "$*" >&2
    exit 1
}
usage_error() {
    local script
    script=$(realpath "$0")
    printf '%serror:%s %s\n  see: %s --help\n' "$RED" "$PLAIN" "$*" "${script#"$ROOT/"}" >&2
    exit 2
}

# The value of an option that needs one: `state=$(value "$@")` with "$1" the option.
value() {
    [[ $# -ge 2 && -n $2 ]] || usage_error "$1 needs a value"
    printf '%s' "$2"
}

# write_file FILE: standard input becomes the whole of FILE at once, readable by its owner only.
write_file() {
    local tmp=$1.$$.tmp
    (umask 077 && cat >"$tmp")
    mv -f "$tmp" "$1"
}

# --- processes -------------------------------------------------------------
# STATE/<name>.pid holds "PID STARTTIME": a recycled PID is not taken for ours.

# These two answer in REPLY and start no process of their own.

# process_start PID: its start time in clock ticks; fails for none and for a zombie.
process_start() {
    local stat fields
    { read -r stat <"/proc/$1/stat"; } 2>/dev/null || return 1
    read -ra fields <<<"${stat##*) }" # after "(comm)": begins with field 3 of proc(5)
    REPLY=${fields[19]}
    [[ ${fields[0]} != [ZX] ]]
}

# running STATE NAME: does the process live? REPLY is its PID.
running() {
    local pid start
    { read -r pid start <"$1/$2.pid"; } 2>/dev/null || return 1
    process_start "$pid" && [[ $REPLY == "$start" ]] || return 1
    REPLY=$pid
}

# stop STATE NAME: SIGTERM, at most 10 s, SIGKILL. Fails if nothing was running.
stop() {
    local state=$1 name=$2 pid tries
    if ! running "$state" "$name"; then
        rm -f "$state/$name.pid"
        return 1
    fi
    pid=$REPLY
    kill -TERM "$pid" 2>/dev/null || true
    for ((tries = 0; tries < 200; tries++)); do
        running "$state" "$name" || break
        sleep 0.05
    done
    if running "$state" "$name"; then
        note "$name does not stop, killing it"
        kill -KILL "$pid" 2>/dev/null || true
        for ((tries = 0; tries < 100; tries++)); do
            running "$state" "$name" || break
            sleep 0.05
        done
    fi
    rm -f "$state/$name.pid"
}
