# What every part uses: points, waits, questions to the cluster, looks at the machine. Sourced by run.sh.
# Deadlines are for a machine that is some ten times slower than a real one.

k() { timeout 120 /usr/local/bin/kubectl "$@"; }
ondol() { timeout 300 /usr/local/bin/ondol "$@"; }
pass() { echo "PASS $1"; }
fail() {
    echo "FAIL $1: $2"
    { echo "--- $1: $2"; journalctl -u ondol -n 40 --no-pager; cat "$scratch/last" 2>/dev/null; } >&2
}
# point NAME COMMAND...: the command says by `because` what is wrong.
point() {
    local name=$1; shift
    reason=""
    echo "--- $name at $(uptime_s) s" >&2
    if "$@" >"$scratch/out" 2>&1; then pass "$name"; else fail "$name" "${reason:-$* failed: $(tail -n 1 "$scratch/out")}"; fi
}
because() { reason=$*; return 1; }
# Seconds since the boot, which no setting of the clock changes.
uptime_s() { local up; read -r up _ </proc/uptime; echo "${up%.*}"; }
# within SECONDS COMMAND...: tries until it succeeds.
within() {
    local end=$(( $(uptime_s) + $1 )); shift
    until "$@" >"$scratch/last" 2>&1; do
        if [ "$(uptime_s)" -ge "$end" ]; then
            because "still not so after the deadline: $*: ${reason:-$(tail -n 2 "$scratch/last" | tr '\n' ' ')}"
            return 1
        fi
        read -r -t 0.5 <> <(:) || true
    done
}
equals() { [ "$1" = "$2" ] || because "\"$1\" instead of \"$2\""; }
has() { case "$1" in *"$2"*) ;; *) because "no \"$2\" in: $(printf %s "$1" | head -c 400 | tr '\n' ' ')";; esac; }
prints() { local wanted=$1 out; shift; out=$("$@" 2>&1) || { because "$*: $out"; return 1; }; has "$out" "$wanted"; }
value() { k get "$1" -o "jsonpath=$2" 2>/dev/null; }
value_is() { equals "$(value "$1" "$2")" "$3"; }
fetch() { curl -sS -f --max-time 30 "$@"; }

is_ready() { prints '"ready": true' ondol ${1:+--instance "$1"} status -o json; }
unit_is() { equals "$(systemctl is-active ondol)" "$1"; }
main_pid() { systemctl show -p MainPID --value ondol; }
node_is_ready() { equals "$(k get nodes -o 'jsonpath={.items[0].status.conditions[?(@.type=="Ready")].status}')" True; }
pods_are_ready() {
    value_is deployment/backend '{.status.readyReplicas}' 2 || return 1
    local pod
    for pod in bare inits; do value_is "pod/$pod" '{.status.conditions[?(@.type=="Ready")].status}' True || return 1; done
    value_is pod/once '{.status.phase}' Succeeded
}
# Of all pods that are to live: name, uid, and how often their containers began again.
pods_now() {
    k get pods -l suite=lives --sort-by=.metadata.name -o 'jsonpath={range .items[*]}{.metadata.name} {.metadata.uid} {.status.containerStatuses[*].restartCount}{"\n"}{end}'
}
# Their processes, as their cgroups have them.
pids_now() {
    local uid
    for uid in $(k get pods -l suite=lives -o 'jsonpath={.items[*].metadata.uid}'); do
        find /sys/fs/cgroup/ondol -path "*/pods/*$uid*" -name cgroup.procs -exec cat {} +
    done | sort -n
}
remember_pods() { pods_now >"$scratch/pods"; pids_now >"$scratch/pids"; [ -s "$scratch/pids" ] || because "no pod has a process"; }
same_pods() {
    equals "$(pods_now)" "$(cat "$scratch/pods")" && equals "$(pids_now | tr '\n' ' ')" "$(tr '\n' ' ' <"$scratch/pids")"
}
# The same pods, each of whose containers began once more than in the file.
began_again() {
    awk '{ for (i = 3; i <= NF; i++) $i += 1; print }' "$1" >"$scratch/expected"
    equals "$(pods_now)" "$(cat "$scratch/expected")"
}
backend_url() { echo "http://$(value service/backend '{.spec.clusterIP}')/"; }

# Asks the Service all the time, until stop_load.
start_load() {
    : >"$scratch/load"
    local url; url=$(backend_url)
    ( while :; do curl -s -o /dev/null --max-time 30 -w '%{http_code}\n' "$url" >>"$scratch/load"; done ) &
    load=$!
}
stop_load() {
    kill "$load" 2>/dev/null; wait "$load" 2>/dev/null
    local all bad; all=$(wc -l <"$scratch/load"); bad=$(grep -vc '^200$' "$scratch/load")
    [ "$all" -ge 3 ] || { because "only $all requests were made"; return 1; }
    [ "$bad" -eq 0 ] || because "$bad of $all requests failed: $(grep -v '^200$' "$scratch/load" | sort | uniq -c | tr '\n' ' ')"
}
# under_load COMMAND...: no request to the pods fails meanwhile.
under_load() {
    start_load
    "$@" || { stop_load; return 1; }
    stop_load
}

# What of Ondol could be left on the machine.
snapshot() {
    awk '{ print "mount", $5 }' /proc/self/mountinfo | grep -vE '/run/(user|credentials)|/proc/sys/fs/binfmt_misc' | sort
    ip -o link | awk '{ print "link", $2 }' | sort
    ip -o address | awk '$2 != "eth0" { print "address", $2, $4 }' | sort
    ip route show table all | grep -v eth0 | sed 's/^/route /'
    ip rule | sed 's/^/rule /'
    nft list ruleset | sed 's/^/nft /'
    find /sys/fs/cgroup /run /var/lib /etc/systemd /root -path '*ondol*' 2>/dev/null | grep -v '^/etc/systemd/system/.*ondol.service$' \
        | grep -vE '^/sys/fs/cgroup/system.slice' | sort | sed 's/^/file /'
    echo "namespaces $(lsns --type net --noheadings --output NS | wc -l)"
    ps -e -o args= | grep -E '[o]ndol' | sed 's/^/process /'
    sysctl -a 2>/dev/null | grep -E '^net\.ipv[46]\.(ip_forward|conf\.(all|default)\.)' | sed 's/^/sysctl /'
    cat /root/.kube/config 2>/dev/null
}
