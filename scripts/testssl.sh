#!/usr/bin/env bash
# Lets testssl.sh (Debian package testssl.sh) look at a listener of lbd that terminates TLS, with a
# certificate made here. Prints what it found, and fails if any of it is MEDIUM or worse.
#
#   scripts/testssl.sh [--system lbd|nginx|haproxy|hitch] [--lbd PATH] [--load PATH] [--keep DIR]
#
# Every process is started here and ended by its pid.
set -euo pipefail

NAME=testssl
source "$(dirname "${BASH_SOURCE[0]}")/peers.sh"
source "$(dirname "${BASH_SOURCE[0]}")/terminators.sh"

system=lbd
# What makes it fail.
BAD='MEDIUM|HIGH|CRITICAL'

# Findings that say nothing about the terminator, and why.
declare -A ACCEPTED=(
    [cert_revocation]='the authority of a test has no place to ask for revoked certificates'
)

main() {
    read_options "$@"
    local testssl
    testssl=$(command -v testssl || command -v testssl.sh) || fail "testssl is not installed"
    open_folder
    build_load
    [[ $system != lbd ]] || build_lbd
    make_certificate
    # A server that does not answer to HTTP: what a web server would be asked for is not ours.
    start_server "$DIR/server.out" --kind echo
    BACKEND=$SERVER_PORT
    start_terminator "$system" 1.2
    # Its exit code counts oddities of all kinds; the findings are judged below.
    "$testssl" --quiet --color 0 --warnings batch --add-ca "$DIR/ca.pem" --ip 127.0.0.1 \
        --csvfile "$DIR/findings.csv" "bench.test:$PORT" >"$DIR/testssl.out" 2>&1 || true
    grep -q '"cipherlist_' "$DIR/findings.csv" || {
        cat "$DIR/testssl.out" >&2
        fail "testssl did not come to an end"
    }
    judge
}

read_options() {
    while (($#)); do
        case $1 in
        --system) system=$2 ;;
        --lbd) lbd=$2 ;;
        --load) load=$2 ;;
        --keep) keep=$2 ;;
        -h | --help) sed -n '2,/^set/s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" && exit ;;
        *) fail "unknown option $1" ;;
        esac
        shift 2 || fail "option $1 needs a value"
    done
}

# Columns of the file: id, host, port, severity, finding, CVE, CWE. The certificate itself is no
# finding.
judge() {
    local id severity finding bad=0
    while IFS=$'\t' read -r id severity finding; do
        if [[ $severity =~ ^($BAD)$ ]]; then
            if [[ -n ${ACCEPTED[$id]:-} ]]; then
                finding+=" (accepted: ${ACCEPTED[$id]})"
            else
                severity+=' !'
                bad=$((bad + 1))
            fi
        fi
        printf '%-10s  %-32s  %s\n' "$severity" "$id" "$finding"
    done < <(tail -n +2 "$DIR/findings.csv" | sed 's/^"//; s/"$//; s/","/\t/g' |
        awk -F'\t' -v OFS='\t' '$1 != "cert" {print $1, $4, $5}')
    echo
    versions "$system"
    ((bad == 0)) || fail "$bad findings are not acceptable"
    note "nothing above LOW"
}

main "$@"
