# 8 again: logs, exec, attach, cp, port-forward, proxy, and every way to carry them. Sourced by tests/first-light.sh.

start_talk() { k apply -f "$here/first-light/talk.yaml" >/dev/null && ready_pod talk && ready_pod listen; }
# lines WANTED LOGS...: how many lines that prints.
lines() { local wanted=$1; shift; equals "$(k logs "$@" 2>/dev/null | grep -c .)" "$wanted"; }

logs_follow() {
    background "$KUBECTL" logs -f talk -c one --tail=1
    # It goes on as the log grows.
    within 10 lines_of_background 4; local done=$?
    end_background; return $done
}
lines_of_background() { [ "$(grep -c '^one' "$scratch/background")" -ge "$1" ]; }
logs_previous() {
    within 20 value_is pod/again '{.status.containerStatuses[0].restartCount}' 1 || return 1
    equals "$(k logs again --previous)" 'start 1' && within 20 prints 'start 2' k logs again
}
logs_since() {
    lines 1 talk -c two --since=1h && lines 0 talk -c two --since-time="$(date -u -d '+1 hour' +%FT%TZ)" || return 1
    within 10 only_recent_lines
}
# What was said first is soon more than a second ago.
only_recent_lines() {
    local all recent; all=$(k logs talk -c one | grep -c .); recent=$(k logs talk -c one --since=1s | grep -c .)
    [ "$recent" -ge 1 ] && [ "$recent" -lt "$all" ] || because "$recent of $all lines"
}
logs_tail() { lines 2 talk -c one --tail=2 && lines 0 talk -c two --tail=0 && equals "$(k logs talk -c one --limit-bytes=3)" one; }
logs_timestamps() {
    k logs talk -c two --timestamps | grep -qE '^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9:.]+Z two begins$' || because "$(k logs talk -c two --timestamps)"
}
logs_of_all() {
    local out; out=$(k logs talk --all-containers --prefix); has "$out" '[pod/talk/one] one begins' && has "$out" '[pod/talk/two] two begins' || return 1
    prints '[pod/talk/two] two begins' k logs -l app=talk --all-containers --prefix --tail=1 || return 1
    refused 'container none is not valid for pod talk' k logs talk -c none
}

exec_is_exact() {
    k exec tools -- /bin/busybox sh -c 'exit 7' 2>/dev/null; equals $? 7 || return 1
    equals "$(echo warm | k exec -i tools -- /bin/busybox cat)" warm || return 1
    # What goes to standard error comes out there.
    equals "$(k exec tools -- /bin/busybox sh -c 'echo out; echo err >&2' 2>/dev/null)" out || return 1
    equals "$(k exec tools -- /bin/busybox dd if=/dev/zero bs=1M count=8 2>/dev/null | wc -c)" 8388608
}
exec_on_a_terminal() {
    # The size of the terminal is known inside, also when it changes.
    terminal bash -c 'stty rows 33 cols 101; { sleep 2; stty rows 44 cols 122 </dev/tty; } &
        "$0" exec -it tools -- /bin/busybox sh -c "busybox tty; for i in \$(busybox seq 40); do busybox stty size; busybox sleep 0.1; done"' "$KUBECTL" </dev/null >"$scratch/terminal"
    has "$(cat "$scratch/terminal")" '33 101' && has "$(cat "$scratch/terminal")" '44 122' && has "$(cat "$scratch/terminal")" /dev/pts || return 1
    # A shell, typed into.
    { sleep 1; echo 'echo $((6*7)) "$PS1"'; sleep 1; echo exit; sleep 1; } | terminal "$KUBECTL" exec -it tools -- /bin/busybox sh >"$scratch/terminal"
    has "$(cat "$scratch/terminal")" '42 ' && has "$(cat "$scratch/terminal")" '/ #'
}
attach_hears() {
    echo warm | k attach -i listen >"$scratch/attach" 2>&1
    # With the end of what is said to it, it ends.
    has "$(cat "$scratch/attach")" 'heard warm' && prints 'heard warm' k logs listen || return 1
    within 20 value_is pod/listen '{.status.phase}' Succeeded
}
attach_sees() {
    background "$KUBECTL" attach talk -c one
    within 10 background_says '^one [0-9]'; local done=$?
    end_background; return $done
}
cp_of_folders() {
    mkdir -p "$scratch/house/room" && echo floor >"$scratch/house/room/warm" && echo roof >"$scratch/house/top"
    dd if=/dev/urandom of="$scratch/house/big" bs=1M count=3 2>/dev/null
    k cp "$scratch/house" tools:/tmp/house >/dev/null && k cp tools:/tmp/house "$scratch/copied" >/dev/null 2>&1 || return 1
    diff -r "$scratch/house" "$scratch/copied" >&2 || because "the folders differ"
}
# forwarded TARGET PORT: a port of the machine leads there.
forwarded() {
    background "$KUBECTL" port-forward "$1" "18080:$2"
    within 15 fetch -f http://127.0.0.1:18080/; local done=$?
    end_background; return $done
}
port_forward() {
    forwarded deployment/client 8080 && forwarded service/backend 3306 && forwarded "pod/$(any_pod client)" 8080
}
# Behind kubectl's proxy everything is plain HTTP, streams included.
with_proxy() {
    background "$KUBECTL" proxy --port=18001 '--reject-paths=^nothing$'
    within 15 fetch -f http://127.0.0.1:18001/readyz && "$@"; local done=$?
    end_background; return $done
}
proxy_root=http://127.0.0.1:18001/api/v1/namespaces/default
through_proxy() { prints '"name": "default"' fetch -f "$proxy_root"; }
through_proxy_to_pods() {
    has "$(fetch "$proxy_root/services/backend:3306/proxy/deep/path?x=1")" '"path":"/deep/path"' || return 1
    has "$(fetch "$proxy_root/pods/$(any_pod client):8080/proxy/")" '"version"'
}
# speaks PROTOCOL PATH: the upgrade to a WebSocket is taken with that protocol; what comes goes to $scratch/spoken.
speaks() {
    curl -sN --http1.1 --max-time 2 -i -H 'Connection: Upgrade' -H 'Upgrade: websocket' -H 'Sec-WebSocket-Version: 13' \
        -H 'Sec-WebSocket-Key: b25kb2xvbmRvbG9uZG9sIQ==' -H "Sec-WebSocket-Protocol: $1" \
        "http://127.0.0.1:18001/api/v1/namespaces/default/pods/$2" >"$scratch/spoken" 2>/dev/null
    grep -aq '^HTTP/1.1 101' "$scratch/spoken" && grep -aqi "^sec-websocket-protocol: $1" "$scratch/spoken" \
        || because "$1: $(head -c 300 "$scratch/spoken" | tr '\r\n' '  ')"
}
web_sockets() {
    local run='exec?stdout=1&stderr=1&command=/bin/busybox&command=echo&command=warm-floor' protocol
    for protocol in v5.channel.k8s.io v4.channel.k8s.io; do
        speaks "$protocol" "tools/$run" && grep -aq warm-floor "$scratch/spoken" || { because "$protocol carried nothing"; return 1; }
    done
    # Browsers read logs so.
    speaks binary.k8s.io 'talk/log?container=two' && grep -aq 'two begins' "$scratch/spoken" || { because 'no log came'; return 1; }
    speaks SPDY/3.1+portforward.k8s.io "$(any_pod client)/portforward"
}
# A kubectl that knows these variables no more would try WebSockets twice.
speaks_spdy() {
    k exec -v=8 tools -- /bin/busybox echo warm >"$scratch/spoken" 2>&1 || { because "$(tail -n 1 "$scratch/spoken")"; return 1; }
    has "$(grep -i 'upgrade' "$scratch/spoken")" SPDY/3.1 && ! grep -qi sec-websocket "$scratch/spoken" || because "$(grep -i upgrade "$scratch/spoken" | head -c 300)"
}
plain_spdy() {
    export KUBECTL_REMOTE_COMMAND_WEBSOCKETS=false KUBECTL_PORT_FORWARD_WEBSOCKETS=false
    speaks_spdy && exec_is_exact && cp_of_folders && attach_sees && forwarded service/backend 3306
    local done=$?
    unset KUBECTL_REMOTE_COMMAND_WEBSOCKETS KUBECTL_PORT_FORWARD_WEBSOCKETS
    return $done
}

# In the cluster: the API under its own name, with what is mounted into every pod.
inside() {
    k exec inside -- /bin/busybox sh -c "d=/var/run/secrets/kubernetes.io/serviceaccount; curl -sS --max-time 10 --cacert \$d/ca.crt -H \"Authorization: Bearer \$(busybox cat \$d/token)\" https://kubernetes.default.svc$1"
}
api_answers_pods() {
    k run inside --image=ondol.local/first-light/curl:1 --command -- /bin/busybox sleep 36000 >/dev/null && ready_pod inside || return 1
    prints APIVersions inside /api && prints v1.37 inside /version || return 1
    # Known, and not allowed: rights come later.
    prints 'system:serviceaccount:default:default' inside /api/v1/namespaces/default/secrets && prints Forbidden inside /api/v1/namespaces/default/secrets
}

stream_points() {
    point 8.talk start_talk
    point 8.logs-follow logs_follow
    point 8.logs-previous logs_previous
    point 8.logs-since logs_since
    point 8.logs-tail logs_tail
    point 8.logs-timestamps logs_timestamps
    point 8.logs-all logs_of_all
    point 8.exec-exact exec_is_exact
    point 8.exec-terminal exec_on_a_terminal
    point 8.attach attach_sees
    point 8.attach-input attach_hears
    point 8.cp-folders cp_of_folders
    point 8.port-forward port_forward
    point 8.proxy with_proxy through_proxy
    # A server apart from the pods' network does not reach them, as upstream's does not without a way of its own.
    [ "$form" = apart ] || point 8.proxy-pods with_proxy through_proxy_to_pods
    point 8.web-sockets with_proxy web_sockets
    point 8.spdy plain_spdy
    point 8.inside api_answers_pods
    k delete -f "$here/first-light/talk.yaml" --wait=false >/dev/null 2>&1
    k delete pod inside --wait=false --grace-period=1 >/dev/null 2>&1
}
