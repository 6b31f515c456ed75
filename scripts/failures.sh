#!/usr/bin/env bash
# Measures what clients see when a backend fails or is slow, and what a queue does: lbd, beside it
# HAProxy and nginx stream in the configuration that their manuals recommend for it.
#
#   scripts/failures.sh [--only failover,blackhole,mixed,queue] [--systems lbd,haproxy,nginx]
#                       [--policies round_robin,two_choices,...] [--rate N] [--clients N]
#                       [--workers N] [--lbd PATH] [--load PATH] [--keep DIR]
#
#   failover   three backends, connections at a fixed rate (connect, request, response, close);
#              one backend is killed with -9, started again, killed again. "live": failed, and begun
#              before the kill was over: nobody can save those. "other": must be 0 (exit 1 if not).
#   blackhole  one of three backends no longer answers a SYN (nft): how many connections are
#              late, by how much, until when, and how many SYNs were tried in vain.
#   mixed      one of three backends is ten times slower: latencies by policy of lbd.
#   queue      10 000 clients at once for one backend that takes 100: the order of service
#              against that of arrival, lbd's context switches, and its system calls (strace).
#              The backend numbers who comes. A few places off are not the queue's doing: the
#              kernel spreads clients over the workers (--workers 1 does without), and a backend
#              notices a client whose request rides on the handshake a little later.
#
# Runs in a network of its own (unshare), so that nothing else is touched; without the right to
# that on this machine's loopback, and without `blackhole`. Every process is ended by its pid.
# Latencies count from the intended start of a connection: compare them on a quiet machine only.
set -euo pipefail
export LC_ALL=C

NAME=failures
source "$(dirname "${BASH_SOURCE[0]}")/peers.sh"

only=failover,blackhole,mixed,queue
systems=lbd,haproxy,nginx
policies=round_robin,least_connections,two_choices,random,least_latency
rate=2000
clients=10000
workers=2

# Moments of a run, in seconds after its start.
FAILOVER_KILL=3 FAILOVER_RESTART=6 FAILOVER_KILL_AGAIN=14 FAILOVER_END=17
BLACKHOLE_BEGIN=3 BLACKHOLE_END=9 BLACKHOLE_RUN_END=14
MIXED_SECONDS=6
# What a backend needs for an answer. Not zero, so that some connections are live at any moment.
DELAY_US=2000
QUEUE_LIMIT=100 QUEUE_DELAY_US=5000

main() {
    read_options "$@"
    build_load
    build_lbd
    own_network "$@"
    # Two descriptors for each client, and some.
    ulimit -n 65536 2>/dev/null || ulimit -n "$(ulimit -Hn)"
    CONNECTIONS=$((($(ulimit -n) - 2000) / 2))
    open_folder
    : >"$DIR/rows"
    declare -gA BACKEND_PID BACKEND_PORT
    FAILED= TRACED= PROBES=
    choose_systems
    local part
    for part in ${only//,/ }; do
        case $part in
        failover | blackhole | mixed | queue) "measure_$part" ;;
        *) fail "unknown part $part" ;;
        esac
    done
    describe
    [[ -z $FAILED ]]
}

read_options() {
    while (($#)); do
        case $1 in
        --only) only=$2 ;;
        --systems) systems=$2 ;;
        --policies) policies=$2 ;;
        --rate) rate=$2 ;;
        --clients) clients=$2 ;;
        --workers) workers=$2 ;;
        --lbd) lbd=$2 ;;
        --load) load=$2 ;;
        --keep) keep=$2 ;;
        -h | --help) sed -n '2,/^set/s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" && exit ;;
        *) fail "unknown option $1" ;;
        esac
        shift 2 || fail "option $1 needs a value"
    done
}

# Starts this script again in a network of its own, or goes on without.
own_network() {
    if [[ -n ${LBD_FAILURES_NETWORK:-} ]]; then
        ip link set lo up
        return
    fi
    export LBD_FAILURES_NETWORK=own
    local way
    for way in 'unshare --net' 'unshare --user --map-root-user --net'; do
        if have ip && $way true 2>/dev/null; then
            exec $way -- "${BASH_SOURCE[0]}" "$@" --lbd "$lbd" --load "$load"
        fi
    done
    note "no right to a network of its own: without blackhole"
    LBD_FAILURES_NETWORK=shared
    only=$(sed 's/blackhole//; s/,,/,/; s/^,//; s/,$//' <<<"$only")
}

choose_systems() {
    local system
    SYSTEMS=()
    for system in ${systems//,/ }; do
        case $system in
        lbd) SYSTEMS+=(lbd) ;;
        haproxy | nginx) have "$system" && SYSTEMS+=("$system") ;;
        *) fail "unknown system $system" ;;
        esac
    done
}

# --- one backend is killed -------------------------------------------------------------------

measure_failover() {
    local system json begun
    row failover system calls ok live other p50 p99 max '>100ms' 'a+b+c' 'b again'
    for system in "${SYSTEMS[@]}"; do
        note "failover: $system"
        start_backends
        PROBES=yes
        start_system "$system" round_robin
        : >"$DIR/windows"
        churn "$FAILOVER_END" &
        begun=$(now)
        local client=$!
        PIDS+=("$client")
        sleep_until "$begun" $FAILOVER_KILL
        kill_backend b
        sleep_until "$begun" $FAILOVER_RESTART
        # With another name, so that its return can be seen.
        start_backend b "${BACKEND_PORT[b]}" B --delay-us $DELAY_US
        sleep_until "$begun" $FAILOVER_KILL_AGAIN
        kill_backend b
        wait "$client" || fail "the load generator failed"
        json=$(<"$DIR/json")
        count_failures
        ((OTHER == 0)) || [[ $system != lbd ]] || FAILED=yes
        row failover "$system" "$(field calls)" "$(field ok)" "$LIVE" "$OTHER" "$(ms p50_us)" \
            "$(ms p99_us)" "$(ms max_us)" "$(field over_100ms)" \
            "$(field by_a)+$(field by_b)+$(field by_c)" "$(field by_B)"
        save "failover-$system"
        end_all
    done
}

# -9, and the time from before the kill until the kernel has closed all that it had.
kill_backend() {
    local begun
    begun=$(now)
    kill -9 "${BACKEND_PID[$1]}"
    wait "${BACKEND_PID[$1]}" 2>/dev/null || true
    echo "$begun $(now)" >>"$DIR/windows"
    local pid left=()
    for pid in "${PIDS[@]}"; do
        [[ $pid == "${BACKEND_PID[$1]}" ]] || left+=("$pid")
    done
    PIDS=("${left[@]}")
}

# LIVE: ended after a kill began and begun before it was over. OTHER: all other failures.
count_failures() {
    read -r LIVE OTHER < <(awk '
        NR == FNR {from[++kills] = $1; until[kills] = $2; next}
        $1 == "ok" {next}
        {
            for (kill = 1; kill <= kills; kill++)
                if ($2 <= until[kill] && $3 >= from[kill]) {live++; next}
            other++
        }
        END {print live + 0, other + 0}' "$DIR/windows" "$DIR/remarkable")
}

# --- one backend does not answer a SYN ---------------------------------------------------------

measure_blackhole() {
    local system json begun in_vain
    have nft || return 0
    row blackhole system calls ok failed SYNs '>10ms' '>50ms' '>100ms' '>250ms' '>500ms' \
        '>1s' max 'late until'
    for system in "${SYSTEMS[@]}"; do
        note "blackhole: $system"
        start_backends
        PROBES=yes
        start_system "$system" round_robin
        churn "$BLACKHOLE_RUN_END" &
        local client=$!
        PIDS+=("$client")
        begun=$(now)
        sleep_until "$begun" $BLACKHOLE_BEGIN
        drop_syns_to "${BACKEND_PORT[b]}"
        sleep_until "$begun" $BLACKHOLE_END
        in_vain=$(nft list table ip failures | sed -n 's/.*counter packets \([0-9]*\).*/\1/p')
        nft delete table ip failures
        wait "$client" || fail "the load generator failed"
        json=$(<"$DIR/json")
        row blackhole "$system" "$(field calls)" "$(field ok)" \
            $(($(field calls) - $(field ok))) "$in_vain" "$(field over_10ms)" \
            "$(field over_50ms)" "$(field over_100ms)" "$(field over_250ms)" \
            "$(field over_500ms)" "$(field over_1000ms)" "$(ms max_us)" \
            "$(last_late "$begun")"
        save "blackhole-$system"
        end_all
    done
}

drop_syns_to() {
    nft "table ip failures {
        chain out {
            type filter hook output priority 0
            ip daddr 127.0.0.1 tcp dport $1 tcp flags & (syn | ack) == syn counter drop
        }
    }"
}

# When the last connection that came late, or failed, was begun: seconds after the rule.
last_late() {
    awk -v rule="$(plus "$1" $BLACKHOLE_BEGIN)" '
        $2 > last {last = $2}
        END {if (last) printf "%.1fs\n", last - rule; else print "-"}' "$DIR/remarkable"
}

plus() { awk -v a="$1" -v b="$2" 'BEGIN {printf "%.6f", a + b}'; }

# --- one backend is slow -----------------------------------------------------------------------

measure_mixed() {
    local policy json
    row mixed policy calls ok p50 p99 p999 max 'to the slow one'
    for policy in ${policies//,/ }; do
        note "mixed: $policy"
        start_backend a 0 a --delay-us $DELAY_US
        start_backend b 0 b --delay-us $((10 * DELAY_US))
        start_backend c 0 c --delay-us $DELAY_US
        PORT=$(free_port)
        PROBES=
        lbd_config "$policy" >"$DIR/lb.toml"
        if ! "$lbd" --config "$DIR/lb.toml" --check >/dev/null 2>"$DIR/check"; then
            row mixed "$policy" "not measured: $(grep -m1 . "$DIR/check")"
            end_all
            continue
        fi
        start_system lbd "$policy"
        churn $MIXED_SECONDS || fail "the load generator failed"
        json=$(<"$DIR/json")
        row mixed "$policy" "$(field calls)" "$(field ok)" "$(ms p50_us)" "$(ms p99_us)" \
            "$(ms p999_us)" "$(ms max_us)" "$(percent "$(field by_b)" "$(field calls)")"
        save "mixed-$policy"
        end_all
    done
}

# --- all backends are full ---------------------------------------------------------------------

measure_queue() {
    local system json before after
    PROBES=
    if ((clients > CONNECTIONS)); then
        note "descriptors are enough for $CONNECTIONS clients in the queue, not for $clients"
        clients=$CONNECTIONS
    fi
    row queue system clients ok failed all_ms 'inverted pairs' overtaking 'places off p50/p99/max' \
        'switches/client' 'epoll_wait' 'write (eventfd)' read
    for system in "${SYSTEMS[@]}"; do
        [[ $system == nginx ]] && continue
        note "queue: $system"
        start_queue_backend
        start_system "$system" queue
        before=$(switches)
        crowd || fail "the load generator failed"
        after=$(switches)
        json=$(<"$DIR/json")
        save "queue-$system"
        end_all
        QUEUE_ROW=("$system" "$(field calls)" "$(field ok)" $(($(field calls) - $(field ok)))
            "$(field all_ms)" "$(percent_of_one "$(field inverted_share)")" "$(field overtaking)"
            "$(field displaced_p50)/$(field displaced_p99)/$(field displaced_max)"
            "$(per_client $((after - before)))")
        count_calls "$system"
        row queue "${QUEUE_ROW[@]}"
    done
}

start_queue_backend() {
    start_backend a 0 a --delay-us $QUEUE_DELAY_US --numbered
}

crowd() {
    "$load" crowd --to "127.0.0.1:$PORT" --clients "$clients" --numbered >"$DIR/json"
}

# Once more under strace, which slows everything down: for the number of calls alone.
count_calls() {
    have strace || return 0
    start_queue_backend
    TRACED=yes
    start_system "$1" queue
    crowd || fail "the load generator failed"
    end_all
    TRACED=
    local name
    for name in 'epoll_p?wait2?' write read; do
        QUEUE_ROW+=("$(per_client "$(awk -v name="^$name\$" '
            $NF ~ name {calls += $4} END {print calls + 0}' "$DIR/strace")")")
    done
    [[ -z $keep ]] || cp "$DIR/strace" "$DIR/queue-$1.strace"
}

# Context switches of all threads of the proxy so far, of their own will and not.
switches() {
    cat "/proc/$PROXY/task/"*/status | awk '/ctxt_switches/ {sum += $2} END {print sum}'
}

per_client() { awk -v n="$1" -v clients="$clients" 'BEGIN {printf "%.2f", n / clients}'; }

# --- processes -----------------------------------------------------------------------------------

churn() {
    "$load" churn --to "127.0.0.1:$PORT" --rate "$rate" --seconds "$1" \
        --remarkable "$DIR/remarkable" >"$DIR/json"
}

start_backends() {
    local name
    for name in a b c; do
        start_backend "$name" 0 "$name" --delay-us $DELAY_US
    done
}

# Name, port or 0, letter, more options. The backend closes first, so that TIME_WAIT is on its side.
start_backend() {
    local name=$1 port=$2 letter=$3
    shift 3
    start_server "$DIR/backend.$name" --bind "127.0.0.1:$port" --threads 1 --name "$letter" \
        --close-after-response "$@"
    BACKEND_PID[$name]=$SERVER
    BACKEND_PORT[$name]=$SERVER_PORT
}

# Leaves the port to connect to in PORT and the proxy's first process in PROXY.
start_system() {
    local -a under=()
    [[ -z $TRACED ]] || under=(strace -f -c -o "$DIR/strace")
    PORT=$(free_port)
    case $1 in
    lbd)
        lbd_config "$2" >"$DIR/lb.toml"
        start "${under[@]}" "$lbd" --config "$DIR/lb.toml"
        ;;
    haproxy)
        haproxy_config "$2" >"$DIR/haproxy.cfg"
        start "${under[@]}" haproxy -db -f "$DIR/haproxy.cfg"
        ;;
    nginx)
        nginx_config >"$DIR/nginx.conf"
        start_nginx
        ;;
    esac
    # Its first probes are over then.
    await_proxy "$1" 10 0.5
}

lbd_config() {
    local access=off policy=$1 name
    # Its writes are no wake-ups.
    if [[ $policy == queue ]]; then
        policy=round_robin
    elif [[ -n $keep ]]; then
        access=$DIR/lbd.access
    fi
    cat <<END
[global]
workers = $workers
max_connections = $CONNECTIONS
[log]
level = "warn"
access = "$access"
[[listener]]
name = "in"
bind = "127.0.0.1:$PORT"
pool = "out"
[[pool]]
name = "out"
policy = "$policy"
connect_timeout = "500ms"
queue = { length = 20000, timeout = "60s" }
[pool.health]
END
    if [[ -n $PROBES ]]; then
        printf '%s\n' 'interval = "500ms"' 'timeout = "500ms"' 'down_interval = "500ms"' 'fall = 3'
    else
        echo 'probe = "none"'
    fi
    for name in "${!BACKEND_PORT[@]}"; do
        printf '[[pool.backend]]\nname = "%s"\naddress = "127.0.0.1:%s"\n' \
            "$name" "${BACKEND_PORT[$name]}"
        [[ $1 != queue ]] || echo "max_connections = $QUEUE_LIMIT"
    done
}

# Checks, observed traffic, and retries that go elsewhere, the first one too.
haproxy_config() {
    local name more='check inter 500ms fastinter 250ms fall 3 rise 2 observe layer4 error-limit 3 on-error mark-down'
    [[ $1 != queue ]] || more="maxconn $QUEUE_LIMIT maxqueue 0"
    cat <<END
global
    nbthread $workers
    maxconn $CONNECTIONS
defaults
    mode tcp
    timeout connect 500ms
    timeout client 60s
    timeout server 60s
    timeout queue 60s
    retries 3
    option redispatch 1
frontend in
    bind 127.0.0.1:$PORT shards by-thread
    default_backend out
backend out
    balance roundrobin
    default-server $more
END
    for name in "${!BACKEND_PORT[@]}"; do
        echo "    server $name 127.0.0.1:${BACKEND_PORT[$name]}"
    done
}

# A zone, so that the workers share what they know of failures.
nginx_config() {
    local name
    nginx_preamble "$workers" error
    cat <<END
stream {
    access_log off;
    tcp_nodelay on;
    upstream out {
        zone out 64k;
END
    for name in "${!BACKEND_PORT[@]}"; do
        echo "        server 127.0.0.1:${BACKEND_PORT[$name]} max_fails=3 fail_timeout=5s;"
    done
    cat <<END
    }
    server {
        listen 127.0.0.1:$PORT reuseport backlog=4096;
        proxy_pass out;
        proxy_connect_timeout 500ms;
        proxy_timeout 60s;
        proxy_next_upstream on;
        proxy_next_upstream_tries 3;
        proxy_half_close on;
    }
}
END
}

now() { echo "$EPOCHREALTIME"; }

# So many seconds after a moment.
sleep_until() {
    sleep "$(awk -v then="$1" -v after="$2" -v now="$(now)" \
        'BEGIN {left = then + after - now; print (left > 0 ? left : 0)}')"
}

# Under strace it is the tracee that is asked to end: its tracer then writes what it counted.
ask_to_end() {
    if [[ -n $TRACED && $1 == "$PROXY" ]]; then
        kill $(cat "/proc/$1/task/$1/children")
    else
        kill "$1"
    fi
}

end_all() {
    end_processes
    BACKEND_PID=()
    BACKEND_PORT=()
}

# --- the table -----------------------------------------------------------------------------------

# A number of the generator's line; 0 when it is not there.
field() {
    local found
    found=$(grep -o "\"$1\":[0-9.]*" <<<"$json") || true
    echo "${found##*:}" | grep . || echo 0
}

ms() { awk -v us="$(field "$1")" 'BEGIN {printf "%.1fms", us / 1000}'; }

percent() { awk -v part="$1" -v all="$2" 'BEGIN {printf "%.1f%%", all ? 100 * part / all : 0}'; }

percent_of_one() { awk -v share="$1" 'BEGIN {printf "%.4f%%", 100 * share}'; }

# The first row of a part names its columns.
row() {
    local IFS='|'
    echo "$*" >>"$DIR/rows"
}

save() {
    [[ -n $keep ]] || return 0
    cp "$DIR/json" "$DIR/$1.json"
    [[ ! -e $DIR/remarkable ]] || mv "$DIR/remarkable" "$DIR/$1.remarkable"
}

describe() {
    echo "$(nproc) CPUs, Linux $(uname -r), $rate connections a second, $(date -u +%F)"
    versions lbd haproxy nginx
    awk -F'|' '
        {
            if ($1 != part) {flush(); part = $1; print "\n" part}
            lines++
            for (i = 2; i <= NF; i++) {
                cell[lines, i] = $i
                # A remark may be longer than its column.
                if (NF > 3 && length($i) > width[i]) width[i] = length($i)
            }
            fields[lines] = NF
        }
        END {flush()}
        function flush(line, i) {
            for (line = 1; line <= lines; line++) {
                for (i = 2; i <= fields[line]; i++) printf "  %-" width[i] + 0 "s", cell[line, i]
                print ""
            }
            lines = 0
            delete width
        }' "$DIR/rows"
}

main "$@"
