# What every part of the script uses: points, waits, questions to the cluster, snapshots of the machine. Sourced by tests/first-light.sh.

# Not the process id: in a namespace of its own that is always the same.
instance="fl$(od -An -N4 -tx1 /dev/urandom | tr -d ' ')"
scratch=$(mktemp -d /tmp/first-light-XXXXXX)
# As kubectl takes it: several files, of which some may not exist.
export KUBECONFIG="$scratch/absent:$scratch/kubeconfig"
failed=0
reason=""
# Processes that serve some points, as registries do.
servants=()
load=()

# How the house stands: it brings `ondol` and what else differs.
form="${FIRST_LIGHT_FORM:-together}"
[ -f "$here/first-light/forms/$form.sh" ] || { echo "FIRST_LIGHT_FORM: there is no form \"$form\"" >&2; exit 2; }
# shellcheck source=/dev/null
. "$here/first-light/forms/$form.sh"

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
# refused WORDS COMMAND...: it fails, and says these.
refused() { local wanted=$1 out; shift; out=$("$@" 2>&1) && { because "it was taken: $*"; return 1; }; has "$out" "$wanted"; }
ready_pod() { k wait "pod/$1" --for=condition=Ready --timeout=50s >/dev/null || because "$(ondol why "pod/$1" 2>&1 | tr '\n' ' ')"; }
address_of() { value "pod/$1" '{.status.podIP}'; }
# event_says KIND/NAME WORDS: an Event about it has them. Events are written behind what they tell of.
event_says() { within 20 prints "$2" k events --for "$1" --no-headers; }
node_name() { k get nodes -o 'jsonpath={.items[0].metadata.name}'; }
node_address() { k get nodes -o 'jsonpath={.items[0].status.addresses[?(@.type=="InternalIP")].address}'; }
any_pod() { k get pods -l "app=$1" --field-selector=status.phase=Running -o 'jsonpath={.items[0].metadata.name}'; }
fetch() { curl -sS --max-time 5 "$@"; }
get_in_pod() { k exec "$1" -- /bin/get "$2"; }
# Whether the process of an instance of ours has started everything.
is_up() { "$ONDOL" --instance "$1" status -o json 2>/dev/null | grep -q '"ready": *true'; }

# terminal COMMAND...: runs it on a terminal of its own, and shows what it wrote there.
# `script` has its command run by $SHELL, which need not know our quoting; without a TERM a terminal is taken for none.
terminal() { SHELL=$BASH TERM=xterm timeout 60 script -qefc "$(printf '%q ' "$@")" /dev/null; }
# background COMMAND...: runs it until `end_background`; what it says goes into $scratch/background.
background() { timeout 60 "$@" >"$scratch/background" 2>&1 & shadow=$!; }
background_says() { grep -qE -e "$1" "$scratch/background"; }
end_background() { kill "$shadow" 2>/dev/null; wait "$shadow" 2>/dev/null; }
# serve COMMAND...: runs it until `end_servants`.
serve() { "$@" >"$scratch/served" 2>&1 & servants+=($!); }
# Whether a process has come into a network namespace of its own.
has_own_network() { [ "$(readlink "/proc/$1/ns/net")" != "$(readlink /proc/self/ns/net)" ]; }
end_servants() { kill "${servants[@]}" 2>/dev/null; wait "${servants[@]}" 2>/dev/null; servants=(); }

# The machine as it is, whole: what of us could be left on it.
snapshot() {
    awk '{ print "mount", $5 }' /proc/self/mountinfo | sort
    in_networks bash -c "$(declare -f network_snapshot); network_snapshot"
    find /sys/fs/cgroup -type d -path "*$instance*" | sort | sed 's/^/cgroup /'
    find / /run /tmp -xdev -maxdepth 6 -path "$scratch" -prune -o -path "*$instance*" -print -prune 2>/dev/null | sort -u
    find /etc -xdev -type f -exec sha256sum {} + | sort | sed 's/^/file /'
    # Without the tools of this look itself, which stand in brackets while they begin or end.
    ps -e -o args= | grep -vE '^(ps -e|bash .*first-light|/.*/first-light.sh|sleep infinity|\[?(sort|sed|grep|awk|ps)([] ]|$))' \
        | sort | sed 's/^/process /'
    lsns --type net --noheadings --output NS | sort | sed 's/^/netns /'
    "$KUBECTL" config view --raw 2>/dev/null
}
network_snapshot() {
    ip -o link | awk '{ print "link", $2, $3 }' | sort
    ip -o address | awk '{ print "address", $2, $4 }' | sort
    ip route show table all | sed 's/^/route /'
    ip -6 route show table all | sed 's/^/route /'
    ip rule | sed 's/^/rule /'
    nft list ruleset
    # All but counters, and what the kernel changes by itself.
    sysctl -a 2>/dev/null | grep -vE '^(fs\.(dentry-state|inode-nr|inode-state|file-nr|aio-nr|quota|binfmt)|kernel\.(random|ns_last_pid|pty\.nr|perf_event_max_sample_rate|sched_domain)|net\.netfilter\.nf_conntrack_count|net\..*stable_secret)' \
        | sed 's/^/sysctl /'
}
# What is in the second snapshot and not in the first. Others may use the machine meanwhile, and what was theirs may go:
# only what has come counts. Settings that came with a module of the kernel are not ours to take away.
come_since() {
    diff "$1" "$2" | sed -n 's/^> //p' >"$scratch/come"
    sed -n 's/^sysctl \([^ ]*\) .*/\1/p' "$1" >"$scratch/settings"
    awk 'NR == FNR { known[$1]; next } $1 != "sysctl" || $2 in known' "$scratch/settings" "$scratch/come"
}
# What carries the name of an instance.
traces_of() {
    find /sys/fs/cgroup /run/ondol /var/lib/ondol -name "$1" 2>/dev/null
    ip -o link | grep -F "ondol $1 "
    nft list tables | grep -F "ondol-$1"
    ps -e -o args= | grep -F -- "--instance $1 " | grep -vF grep
}

clean_up() {
    [ ${#load[@]} -eq 0 ] || kill "${load[@]}" 2>/dev/null
    [ ${#servants[@]} -eq 0 ] || end_servants
    [ -n "${listener:-}" ] && kill "$listener" 2>/dev/null
    ondol down --wipe --yes >"$scratch/wipe" 2>&1
    "$ONDOL" --instance "${second:-none}" down --wipe --yes >"$scratch/wipe" 2>&1
    rm -rf "$scratch"
}

# Asks $1 all the time, by several at once; counts answers and failures until stop_load. It is under way when this ends.
start_load() {
    : >"$scratch/load"
    load=()
    local asker
    for asker in 1 2 3; do
        ask_on "$1" "$scratch/load.body.$asker" & load+=($!)
    done
    within 10 has_asked 10
}
# One line each time: when it began, in microseconds; the status; what went wrong; which version answered.
ask_on() {
    local began status
    while :; do
        began=${EPOCHREALTIME/./}
        status=$(curl -s -o "$2" --max-time 5 -w '%{http_code} %{errormsg}' "$1")
        echo "$began $status $(grep -o '"version": *"[^"]*"' "$2")" >>"$scratch/load"
    done
}
has_asked() { [ "$(wc -l <"$scratch/load")" -ge "$1" ] || because "only $(wc -l <"$scratch/load") requests were made"; }
stop_load() {
    # A change may be done before many have asked: what it did to those after it counts too.
    local all bad so_far; so_far=$(wc -l <"$scratch/load")
    within 10 has_asked $((so_far + 20)); local asked=$?
    kill "${load[@]}" 2>/dev/null; wait "${load[@]}" 2>/dev/null; load=()
    [ "$asked" -eq 0 ] || return 1
    all=$(wc -l <"$scratch/load"); bad=$(grep -vc '^[0-9]* 200 ' "$scratch/load")
    [ "$bad" -eq 0 ] || because "$bad of $all requests failed: $(grep -v '^[0-9]* 200 ' "$scratch/load" | cut -d' ' -f2-12 | sort | uniq -c | tr '\n' ' ')"
}
