#!/usr/bin/env bash
# Measures lbd against HAProxy and nginx stream: CPU of the whole machine per unit of work, in
# interleaved rounds, so that a machine that changes its pace changes it for all of them. With TLS
# also against hitch, and then the CPU of the terminator's own processes.
#
#   scripts/bench.sh [--only rr32,cycle | --only tls] [--systems direct,lbd,nginx] [--rounds N]
#                    [--seconds S] [--lbd PATH] [--load PATH] [--idle N] [--quiet-wait S]
#                    [--retries N] [--no-halt] [--keep DIR]
#
# Workloads: rr1, rr32, rr200, rr32-16k, cycle, cycle-client, bulk-down, bulk-up, open, idle; with
# TLS: tls-full, tls-resumed (connect, handshake, request, response, close), tls-rr32,
# tls-bulk-down, tls-bulk-up, tls-idle; `tls` for all of these.
# All traffic stays on 127.0.0.1. Every process is started here and ended by its pid.
set -euo pipefail

NAME=bench
source "$(dirname "${BASH_SOURCE[0]}")/peers.sh"
source "$(dirname "${BASH_SOURCE[0]}")/terminators.sh"

only=rr1,rr32,rr200,rr32-16k,cycle,bulk-down,bulk-up,open,idle
systems=direct,lbd,haproxy,haproxy-splice,nginx,hitch
TLS_WORKLOADS=tls-full,tls-resumed,tls-rr32,tls-bulk-down,tls-bulk-up,tls-idle
rounds=5
# With TLS more, because the time of a process is told in hundredths of a second.
seconds=
SECONDS_PLAIN=3 SECONDS_TLS=5
idle=
IDLE_PLAIN=5000 IDLE_TLS=2000
quiet_wait=5
retries=1
no_halt=

main() {
    read_options "$@"
    ulimit -n "$(ulimit -Hn)"
    open_folder
    : >"$DIR/results"
    build_load
    [[ ,$systems, != *,lbd,* ]] || build_lbd
    [[ $only != *tls-* ]] || make_certificate
    choose_systems
    wait_for_others
    [[ -n $no_halt ]] && forbid_halt
    measure_all
    describe
    "$load" report "$DIR/results"
}

read_options() {
    while (($#)); do
        if [[ $1 == --no-halt ]]; then
            no_halt=yes
            shift
            continue
        fi
        case $1 in
        --only) only=$2 ;;
        --systems) systems=$2 ;;
        --rounds) rounds=$2 ;;
        --seconds) seconds=$2 ;;
        --lbd) lbd=$2 ;;
        --load) load=$2 ;;
        --idle) idle=$2 ;;
        --quiet-wait) quiet_wait=$2 ;;
        --retries) retries=$2 ;;
        --keep) keep=$2 ;;
        -h | --help) sed -n '2,/^set/s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" && exit ;;
        *) fail "unknown option $1" ;;
        esac
        shift 2 || fail "option $1 needs a value"
    done
    [[ $only != tls ]] || only=$TLS_WORKLOADS
}

# Those asked for, less the peers that are not installed.
choose_systems() {
    local system
    SYSTEMS=()
    for system in ${systems//,/ }; do
        case $system in
        direct) SYSTEMS+=(direct) ;;
        lbd) SYSTEMS+=(lbd) ;;
        haproxy | haproxy-splice) have haproxy && SYSTEMS+=("$system") ;;
        nginx | hitch) have "$system" && SYSTEMS+=("$system") ;;
        *) fail "unknown system $system" ;;
        esac
    done
}

# Two of these at a time would measure each other.
wait_for_others() {
    exec {LOCK}>"${TMPDIR:-/tmp}/lbd-bench.lock"
    flock --nonblock "$LOCK" && return
    note "waits for another bench.sh to end"
    flock "$LOCK"
}

# In a virtual machine a halted CPU is woken through the hypervisor, which can cost more than the
# request that it is woken for, and not always: it depends on where threads run. While this file
# is open with a zero in it, idle CPUs of the whole machine poll instead (still counted as idle).
forbid_halt() {
    if [[ -w /dev/cpu_dma_latency ]]; then
        exec {LATENCY_REQUEST}>/dev/cpu_dma_latency
        printf '\0\0\0\0' >&"$LATENCY_REQUEST"
    else
        note "no right to /dev/cpu_dma_latency: idle CPUs halt"
    fi
}

measure_all() {
    local round workload system
    for ((round = 1; round <= rounds; round++)); do
        for workload in ${only//,/ }; do
            for system in "${SYSTEMS[@]}"; do
                suits "$workload" "$system" || continue
                note "round $round of $rounds: $workload, $system"
                measure_cell "$workload" "$system" "$round"
            done
        done
    done
}

suits() {
    case $1 in
    tls-*) [[ $2 != direct && $2 != haproxy-splice ]] ;;
    idle) [[ $2 != direct && $2 != hitch ]] ;;
    *) [[ $2 != hitch ]] ;;
    esac
}

# A fresh server and a fresh proxy per cell: nothing is inherited from another workload.
measure_cell() {
    local workload=$1 system=$2 round=$3 json
    start_server "$DIR/server.out" $(server_of "$workload")
    BACKEND=$SERVER_PORT
    if [[ $workload == tls-* ]]; then
        start_terminator "$system"
        limits "$SECONDS_TLS" "$IDLE_TLS"
    else
        start_system "$system"
        limits "$SECONDS_PLAIN" "$IDLE_PLAIN"
    fi
    if [[ $workload == *idle ]]; then
        json=$(measure_idle $(client_of "$workload")) || json=
    else
        json=$(measure_load $(client_of "$workload")) || json=
    fi
    if [[ -n $json ]]; then
        printf '%s\t%s\t%s\t%s\n' "$workload" "$system" "$round" "$json" >>"$DIR/results"
    else
        note "no result: $workload, $system"
    fi
    end_processes
}

# The length of a round and the number of idle connections, where the options do not say them.
limits() {
    LENGTH=${seconds:-$1}
    HELD=${idle:-$2}
}

server_of() {
    case $1 in
    rr1 | rr32 | rr200 | open | idle | cycle-client | tls-rr32 | tls-idle) echo --kind echo ;;
    rr32-16k) echo --kind echo --response-bytes 16384 ;;
    cycle | tls-full | tls-resumed) echo --kind echo --close-after-response ;;
    bulk-down | tls-bulk-down) echo --kind source ;;
    bulk-up | tls-bulk-up) echo --kind sink ;;
    *) fail "unknown workload $1" ;;
    esac
}

client_of() {
    case $1 in
    rr1) echo rr --connections 1 ;;
    rr32) echo rr --connections 32 ;;
    rr200) echo rr --connections 200 ;;
    rr32-16k) echo rr --connections 32 --response-bytes 16384 ;;
    cycle) echo cycle --concurrency 32 ;;
    cycle-client) echo cycle --concurrency 32 --client-closes --source-addresses 4 ;;
    bulk-down) echo bulk --connections 4 --direction down ;;
    bulk-up) echo bulk --connections 4 --direction up ;;
    open) echo open --rate 10000 --connections 64 ;;
    idle) echo idle ;;
    tls-full) echo cycle --concurrency 32 --tls full ;;
    tls-resumed) echo cycle --concurrency 32 --tls resumed ;;
    tls-rr32) echo rr --connections 32 --tls full ;;
    tls-bulk-down) echo bulk --connections 4 --direction down --tls full ;;
    tls-bulk-up) echo bulk --connections 4 --direction up --tls full ;;
    tls-idle) echo idle --tls full ;;
    esac
}

# Again, if other processes took more than a tenth of the CPU time meanwhile.
measure_load() {
    local attempt json
    for ((attempt = 0; attempt <= retries; attempt++)); do
        "$load" quiet --wait-seconds "$quiet_wait" 2>/dev/null
        json=$("$load" "$@" --to "127.0.0.1:$PORT" --seconds "$LENGTH" --family $$ \
            ${PROXY:+--own "$PROXY"}) || {
            note "failed: $json"
            json=
            continue
        }
        is_disturbed "$json" || break
    done
    echo "$json"
}

is_disturbed() {
    awk -v RS=, -F: '
        /cpu_seconds_machine/ {machine = $2}
        /cpu_seconds_strangers/ {strangers = $2}
        END {exit !(strangers > 0.1 * machine)}' <<<"$1"
}

# User memory of all processes of the proxy per connection, while they are held.
measure_idle() {
    local before after client
    before=$(anonymous_kib)
    : >"$DIR/idle.out"
    "$load" "$@" --to "127.0.0.1:$PORT" --connections "$HELD" --hold-seconds 2 >"$DIR/idle.out" &
    client=$!
    until_true 20 grep -q '^holding' "$DIR/idle.out" || { kill "$client" && return 1; }
    after=$(anonymous_kib)
    wait "$client" || return 1
    printf '{"unit":"connection","bytes_per_connection":%s,%s\n' \
        $(((after - before) * 1024 / HELD)) "$(sed -n 's/^{//p' "$DIR/idle.out")"
}

anonymous_kib() {
    local pid total=0
    for pid in $PROXY $(cat "/proc/$PROXY/task/"*/children); do
        total=$((total + $(awk '/^RssAnon/ {print $2}' "/proc/$pid/status")))
    done
    echo "$total"
}

# Leaves the port to connect to in PORT and the proxy's first process in PROXY.
start_system() {
    PORT=$BACKEND PROXY=
    [[ $1 == direct ]] && return
    PORT=$(free_port)
    case $1 in
    lbd) lbd_config >"$DIR/lb.toml" && start "$lbd" --config "$DIR/lb.toml" ;;
    haproxy) haproxy_config >"$DIR/haproxy.cfg" && start haproxy -db -f "$DIR/haproxy.cfg" ;;
    haproxy-splice)
        haproxy_config 'tune.pipesize 524288' 'option splice-request' 'option splice-response' \
            >"$DIR/haproxy.cfg"
        start haproxy -db -f "$DIR/haproxy.cfg"
        ;;
    nginx) nginx_config >"$DIR/nginx.conf" && start_nginx ;;
    esac
    await_proxy "$1" 5 0.2
}

lbd_config() {
    cat <<END
[global]
workers = 2
[log]
level = "warn"
access = "off"
[[listener]]
name = "bench"
bind = "127.0.0.1:$PORT"
pool = "bench"
[[pool]]
name = "bench"
policy = "round_robin"
[pool.health]
probe = "none"
[[pool.backend]]
address = "127.0.0.1:$BACKEND"
END
}

# A listening socket per thread (shards), as nginx and lbd have it. The arguments are one more
# global setting and more defaults. Splicing is asked for and not left to `splice-auto`, which did
# not splice a single byte of these flows (strace), and with pipes that hold what a receive brings.
haproxy_config() {
    cat <<END
global
    nbthread 2
    maxconn $(haproxy_connections)
    tune.bufsize $haproxy_buffer_bytes
    ${1:-}
defaults
    mode tcp
    timeout connect 5s
    timeout client 60s
    timeout server 60s
    ${2:-}
    ${3:-}
frontend bench
    bind 127.0.0.1:$PORT shards by-thread
    default_backend bench
backend bench
    server bench 127.0.0.1:$BACKEND
END
}

nginx_config() {
    nginx_preamble 2 crit
    cat <<END
stream {
    access_log off;
    tcp_nodelay on;
    proxy_connect_timeout 5s;
    proxy_timeout 60s;
    proxy_buffer_size $nginx_buffer_bytes;
    upstream bench { server 127.0.0.1:$BACKEND max_fails=0; }
    server {
        listen 127.0.0.1:$PORT reuseport backlog=4096;
        proxy_pass bench;
        # Without it an upload ends before the server has answered.
        proxy_half_close on;
    }
}
END
}

describe() {
    echo "$(nproc) CPUs, Linux $(uname -r), $rounds rounds of ${seconds:-$SECONDS_PLAIN to $SECONDS_TLS} s, $(date -u +%F)"
    versions haproxy nginx hitch
    echo
}

main "$@"
