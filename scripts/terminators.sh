# How lbd and its peers are told to terminate TLS in front of BACKEND: for bench.sh and testssl.sh,
# which source this after peers.sh.
#
# The same for all: a certificate with an ECDSA key on P-256, TLS 1.3 with X25519 and
# TLS_AES_128_GCM_SHA256 (the load generator offers nothing else), one ticket per handshake that
# the server need not remember, two threads or workers.

# An authority and a leaf for the names that the load generator and testssl ask for, in DIR; and
# what OpenSSL shall do where a peer has no setting for it.
make_certificate() {
    {
        openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 90 \
            -subj '/CN=bench authority' -keyout "$DIR/ca.key" -out "$DIR/ca.pem"
        openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes \
            -subj '/CN=bench.test' -keyout "$DIR/key.pem" -out "$DIR/leaf.csr"
        openssl x509 -req -in "$DIR/leaf.csr" -CA "$DIR/ca.pem" -CAkey "$DIR/ca.key" \
            -days 90 -out "$DIR/cert.pem" -extfile - <<'END'
subjectAltName = DNS:bench.test, IP:127.0.0.1
basicConstraints = critical, CA:false
keyUsage = critical, digitalSignature
extendedKeyUsage = serverAuth
END
    } 2>"$DIR/openssl.err" || { cat "$DIR/openssl.err" >&2 && fail "no certificate"; }
    (umask 077 && cat "$DIR/key.pem" "$DIR/cert.pem" >"$DIR/both.pem")
    cat >"$DIR/openssl.cnf" <<'END'
openssl_conf = init
[init]
ssl_conf = ssl
[ssl]
system_default = all
[all]
NumTickets = 1
END
}

# Name, and for lbd the lowest version of TLS, 1.3 if there is no word of it. Leaves the port to
# connect to in PORT and the first process in PROXY.
start_terminator() {
    local one_ticket=(env "OPENSSL_CONF=$DIR/openssl.cnf")
    PORT=$(free_port)
    case $1 in
    lbd) lbd_tls_config "${2:-1.3}" >"$DIR/lb.toml" && start "$lbd" --config "$DIR/lb.toml" ;;
    haproxy)
        haproxy_tls_config >"$DIR/haproxy.cfg"
        start "${one_ticket[@]}" haproxy -db -f "$DIR/haproxy.cfg"
        ;;
    nginx) nginx_tls_config >"$DIR/nginx.conf" && start_nginx "${one_ticket[@]}" ;;
    hitch)
        hitch_tls_config >"$DIR/hitch.conf"
        start "${one_ticket[@]}" hitch --config="$DIR/hitch.conf"
        ;;
    *) fail "$1 cannot terminate TLS" ;;
    esac
    await_proxy "$1" 5 0.2
}

lbd_tls_config() {
    cat <<END
[global]
workers = 2
[log]
level = "warn"
access = "off"
[[listener]]
name = "tls"
bind = "127.0.0.1:$PORT"
pool = "p"
[listener.tls]
mode = "terminate"
certificates = [{ cert = "$DIR/cert.pem", key = "$DIR/key.pem" }]
min_version = "$1"
[[pool]]
name = "p"
policy = "round_robin"
[pool.health]
probe = "none"
[[pool.backend]]
address = "127.0.0.1:$BACKEND"
END
}

haproxy_tls_config() {
    cat <<END
global
    nbthread 2
    maxconn $(haproxy_connections)
    tune.bufsize $haproxy_buffer_bytes
    ssl-default-bind-options ssl-min-ver TLSv1.3
    ssl-default-bind-ciphersuites TLS_AES_128_GCM_SHA256
defaults
    mode tcp
    timeout connect 5s
    timeout client 60s
    timeout server 60s
frontend bench
    bind 127.0.0.1:$PORT ssl crt $DIR/both.pem curves X25519 shards by-thread
    default_backend bench
backend bench
    server bench 127.0.0.1:$BACKEND
END
}

# It ends without a close_notify, whatever its settings.
nginx_tls_config() {
    nginx_preamble 2 crit
    cat <<END
stream {
    access_log off;
    tcp_nodelay on;
    proxy_connect_timeout 5s;
    proxy_timeout 60s;
    proxy_buffer_size $nginx_buffer_bytes;
    ssl_certificate $DIR/cert.pem;
    ssl_certificate_key $DIR/key.pem;
    ssl_protocols TLSv1.3;
    ssl_conf_command Ciphersuites TLS_AES_128_GCM_SHA256;
    ssl_ecdh_curve X25519;
    ssl_session_tickets on;
    ssl_session_cache off;
    upstream bench { server 127.0.0.1:$BACKEND max_fails=0; }
    server {
        listen 127.0.0.1:$PORT ssl reuseport backlog=4096;
        proxy_pass bench;
        proxy_half_close on;
    }
}
END
}

# It will not work as root, so it works as whom every system has. It knows no half-close: the server's
# count of an upload does not come back through it, which is one error per connection.
hitch_tls_config() {
    ((EUID != 0)) || echo 'user = "nobody"'
    cat <<END
frontend = "[127.0.0.1]:$PORT"
backend = "[127.0.0.1]:$BACKEND"
pem-file = "$DIR/both.pem"
workers = 2
backlog = 4096
tls-protos = TLSv1.3
ciphersuites = "TLS_AES_128_GCM_SHA256"
ecdh-curve = "X25519"
ocsp-dir = ""
daemon = off
log-level = 0
END
}
