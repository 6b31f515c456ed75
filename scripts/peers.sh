# Processes, ports and folders of a measurement: for bench.sh, failures.sh and testssl.sh, which
# source this. They set NAME (what their notes begin with) and know the options `lbd`, `load` and
# `keep`; a folder of their own is in DIR, and every process that `start` has started, in PIDS.

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
TARGET=${CARGO_TARGET_DIR:-$ROOT/target}

lbd=
load=
keep=

note() { echo "$NAME: $*" >&2; }

fail() {
    note "$@"
    exit 1
}

have() { command -v "$1" >/dev/null || { note "$1 is not installed: left out" && false; }; }

versions() {
    local system
    for system; do
        case $system in
        lbd) "$lbd" --version ;;
        haproxy) have haproxy 2>/dev/null && haproxy -v | head -1 ;;
        nginx) have nginx 2>/dev/null && nginx -v 2>&1 ;;
        hitch) have hitch 2>/dev/null && hitch --version ;;
        esac || true
    done
}

# --- what is measured, and the folder for it -----------------------------------------------------

build_load() {
    [[ -z $load ]] || return 0
    cargo build --quiet --release --manifest-path "$ROOT/Cargo.toml" --example load
    load=$TARGET/release/examples/load
}

build_lbd() {
    [[ -z $lbd ]] || return 0
    cargo build --quiet --release --manifest-path "$ROOT/Cargo.toml" --bin lbd
    lbd=$TARGET/release/lbd
}

open_folder() {
    DIR=${keep:-$(mktemp -d)}
    mkdir -p "$DIR"
    PIDS=()
    trap leave EXIT
    trap 'exit 130' INT TERM
}

leave() {
    end_processes
    [[ -n $keep ]] || rm -rf "$DIR"
}

# --- processes -----------------------------------------------------------------------------------

# Leaves the proxy's first process in PROXY.
start() {
    "$@" >"$DIR/proxy.err" 2>&1 &
    PROXY=$!
    PIDS+=("$PROXY")
}

# What was started last, by its name, is given so many seconds to listen on PORT, and then so many
# to finish with this connection and with what it does once at the start.
await_proxy() {
    until_true "$2" answers "$PORT" || {
        cat "$DIR/proxy.err" >&2
        fail "$1 does not listen"
    }
    sleep "$3"
}

# The server of the load tool, with a file for its output and more options. Leaves its process in
# SERVER and its port in SERVER_PORT.
start_server() {
    local out=$1
    shift
    : >"$out"
    "$load" server "$@" >"$out" &
    SERVER=$!
    PIDS+=("$SERVER")
    until_true 5 grep -q '^listening' "$out" || fail "a server does not start"
    SERVER_PORT=$(sed -n 's/^listening .*://p' "$out")
}

end_processes() {
    local pid
    for pid in "${PIDS[@]}"; do
        ask_to_end "$pid" 2>/dev/null || true
    done
    for pid in "${PIDS[@]}"; do
        wait "$pid" 2>/dev/null || true
    done
    PIDS=()
}

ask_to_end() { kill "$1"; }

until_true() {
    local attempts=$(($1 * 50))
    shift
    until "$@"; do
        ((attempts-- > 0)) || return 1
        sleep 0.02
    done
}

# --- ports ---------------------------------------------------------------------------------------

answers() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

# Below the ephemeral range, so that no client connection takes it meanwhile.
free_port() {
    local port=$((20000 + RANDOM % 10000))
    while answers "$port"; do port=$((20000 + RANDOM % 10000)); done
    echo "$port"
}

# --- parts of configurations ---------------------------------------------------------------------

# What measured best for bulk; for small messages and idle memory the size does not show.
nginx_buffer_bytes=${NGINX_BUFFER_BYTES:-65536}
haproxy_buffer_bytes=${HAPROXY_BUFFER_BYTES:-65536}

# Two descriptors each, and two more for the pipe of every fourth.
haproxy_connections() {
    local most=$((($(ulimit -n) - 500) * 2 / 5))
    echo $((most < 20000 ? most : 20000))
}

# Everything outside of `stream`: the number of workers and the level of the error log.
nginx_preamble() {
    local module
    for module in /usr/lib/nginx/modules /usr/lib64/nginx/modules /usr/share/nginx/modules; do
        [[ -e $module/ngx_stream_module.so ]] && echo "load_module $module/ngx_stream_module.so;" && break
    done
    cat <<END
daemon off;
worker_processes $1;
worker_rlimit_nofile $(ulimit -n);
pid $DIR/nginx.pid;
error_log $DIR/nginx.err $2;
events {
    worker_connections 16384;
    multi_accept on;
}
END
}

start_nginx() { start "$@" nginx -e "$DIR/nginx.err" -c "$DIR/nginx.conf"; }
