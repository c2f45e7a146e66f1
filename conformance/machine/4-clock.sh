# 4: a clock that is set while pods serve. Sourced by run.sh.

# set_clock SECONDS: by so much, back if negative.
set_clock() { date -s "@$(( $(date +%s) + $1 ))"; }
real_time() { echo $(( $(cat "$scratch/real") + $(uptime_s) )); }
# Since when, for what must not have happened since.
jump() { rm -f "$scratch"/since; start_load; set_clock "$1"; date -u +%Y-%m-%dT%H:%M:%SZ >"$scratch/since"; uptime_s >"$scratch/jumped"; }

answers_at_once() {
    within 30 k get pods || return 1
    local took=$(( $(uptime_s) - $(cat "$scratch/jumped") ))
    [ "$took" -le 30 ] || because "after $took s"
}
# Never unready either: the machine lives, whatever its clock says.
node_stays() {
    within 60 node_is_ready || return 1
    local told; told=$(k get events -A --field-selector reason=NodeNotReady -o 'jsonpath={.items[*].lastTimestamp}' | tr ' ' '\n' | awk -v since="$(cat "$scratch/since")" '$0 >= since')
    [ -z "$told" ] || because "it was not ready at $told"
}
lease_is_fresh() {
    local at; at=$(k get lease -n kube-node-lease -o 'jsonpath={.items[0].spec.renewTime}')
    local off=$(( $(date +%s) - $(date -d "$at" +%s) ))
    [ "${off#-}" -le 60 ] || because "renewed at $at, now is $(date -u +%FT%TZ)"
}
token_file() {
    local uid; uid=$(value pod/bare '{.metadata.uid}')
    find "/var/lib/ondol/default/pods/$uid" -name token -path '*volumes*' | head -n 1
}
# What the pod finds in its file is taken, and says that it is.
token_is_taken() {
    local code; code=$(curl -s -k -o /dev/null -w '%{http_code}' --max-time 30 -H "Authorization: Bearer $(cat "$(token_file)")" https://127.0.0.1:6443/apis)
    equals "$code" 200
}
streams_go() { prints '"version"' k exec bare -- /bin/get http://backend/ && k logs bare >/dev/null; }
pods_are_the_same() { stop_load && same_pods; }
new_pods_run() {
    k run "new-$1" --image=ondol.local/echo:v1 && k wait "pod/new-$1" --for=condition=Ready --timeout=100s || return 1
    # Told now, and kept.
    within 30 prints Started k events --for "pod/new-$1" --no-headers || return 1
    k delete pod "new-$1" --timeout=100s
}
begins_again() { [ "$(value pod/failing '{.status.containerStatuses[0].restartCount}')" -gt "$1" ] || because "$(k get pod failing --no-headers)"; }
# A pause that was counted by the clock before would last as long as the jump.
pauses_stay_short() {
    within 200 begins_again "$(value pod/failing '{.status.containerStatuses[0].restartCount}')" && k delete pod failing --now
}
# after_jump NAME SECONDS
after_jump() {
    remember_pods
    jump "$2"
    point "clock.$1.api" within 30 answers_at_once
    point "clock.$1.node" node_stays
    point "clock.$1.lease" within 60 lease_is_fresh
    point "clock.$1.token" within 60 token_is_taken
    point "clock.$1.streams" within 60 streams_go
    point "clock.$1.pods" pods_are_the_same
    point "clock.$1.new-pods" new_pods_run "$1"
}
clock() {
    echo $(( $(date +%s) - $(uptime_s) )) >"$scratch/real"
    after_jump day 86400
    after_jump year 31536000
    k apply -f "$here/failing.yaml" >&2
    within 120 begins_again 1 >&2
    after_jump hour-back -3600
    point clock.hour-back.pauses pauses_stay_short
    # For the reboots.
    date -s "@$(real_time)" >&2
    uptime_s >"$scratch/jumped"
    point clock.back-to-now within 60 answers_at_once
}
