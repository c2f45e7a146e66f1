# What every part of the script uses: points, waits, questions to the cluster, snapshots of the machine. Sourced by tests/first-light.sh.

instance="fl$$"
scratch=$(mktemp -d /tmp/first-light-XXXXXX)
export KUBECONFIG="$scratch/kubeconfig"
failed=0
reason=""

ondol() { timeout 120 "$ONDOL" --instance "$instance" "$@"; }
k() { timeout 60 "$KUBECTL" "$@"; }

pass() { echo "PASS $1"; }
fail() { echo "FAIL $1: $2"; failed=$((failed + 1)); }

# point NAME COMMAND...: the command says by `because` what is wrong.
point() {
    local name=$1; shift
    reason=""
    if "$@" >"$scratch/out"; then pass "$name"; else fail "$name" "${reason:-$* failed: $(tail -n 1 "$scratch/out")}"; fi
}
because() { reason=$*; return 1; }

# within SECONDS COMMAND...: tries until it succeeds.
within() {
    local end=$(( $(date +%s) + $1 )); shift
    until "$@" >"$scratch/last" 2>&1; do
        if [ "$(date +%s)" -ge "$end" ]; then
            because "still not so after the deadline: $*: $(tail -n 2 "$scratch/last" | tr '\n' ' ')"
            return 1
        fi
        # Between two looks; nothing depends on its length.
        read -r -t 0.1 <> <(:) || true
    done
}
equals() { [ "$1" = "$2" ] || because "\"$1\" instead of \"$2\""; }
has() { case "$1" in *"$2"*) ;; *) because "no \"$2\" in: $(printf %s "$1" | head -c 300 | tr '\n' ' ')";; esac; }
prints() { local wanted=$1 out; shift; out=$("$@" 2>&1) || { because "$*: $out"; return 1; }; has "$out" "$wanted"; }
value() { k get "$1" -o "jsonpath=$2" 2>/dev/null; }
value_is() { equals "$(value "$1" "$2")" "$3"; }
ready_is() { value_is "$1" '{.status.readyReplicas}' "$2"; }
any_pod() { k get pods -l "app=$1" --field-selector=status.phase=Running -o 'jsonpath={.items[0].metadata.name}'; }
fetch() { curl -sS --max-time 5 "$@"; }
get_in_pod() { k exec "$1" -- /bin/get "$2"; }
server_pid() { ondol status -o json | grep -o '"pid": *[0-9]*' | head -n 1 | grep -o '[0-9]*$'; }

# What of us could be left on a machine.
snapshot() {
    awk '{ print "mount", $5 }' /proc/self/mountinfo | sort
    ip -o link | awk '{ print "link", $2 }' | sort
    nft list tables 2>/dev/null | sort
    find /sys/fs/cgroup -type d -name '*ondol*' 2>/dev/null | sort
    find /var/lib /var/log /run /etc /tmp "${HOME:-/root}" -maxdepth 3 -path "*$instance*" -not -path "$scratch*" 2>/dev/null | sort
    sysctl -a 2>/dev/null | grep -E '^net\.(ipv4\.ip_forward|ipv4\.conf\.(all|default|lo)|bridge|ipv6\.conf\.(all|default|lo))' \
        | grep -vE 'stable_secret|mtu'
    ps -eo args= | grep -F "$(basename "$ONDOL")" | grep -F "$instance" | grep -vF first-light | sort
    "$KUBECTL" config view --raw 2>/dev/null
}

clean_up() {
    [ -n "${load:-}" ] && kill "$load" 2>/dev/null
    ondol down --wipe --yes >"$scratch/wipe" 2>&1
    rm -rf "$scratch"
}

# Asks $1 all the time; counts answers and failures until stop_load.
start_load() {
    : >"$scratch/load"
    ( while :; do
        curl -s -o /dev/null --max-time 5 -w '%{http_code}\n' "$1" >>"$scratch/load"
    done ) &
    load=$!
}
stop_load() {
    kill "$load" 2>/dev/null; wait "$load" 2>/dev/null; load=""
    local all bad
    all=$(wc -l <"$scratch/load"); bad=$(grep -vc '^200$' "$scratch/load")
    [ "$all" -gt 10 ] || { because "only $all requests were made"; return 1; }
    [ "$bad" -eq 0 ] || because "$bad of $all requests failed: $(grep -v '^200$' "$scratch/load" | sort | uniq -c | tr '\n' ' ')"
}
