#!/usr/bin/env bash
# What a user does with a fresh house, with real kubectl: every point prints "PASS name" or "FAIL name: reason".
#
#   ONDOL=path/to/ondol KUBECTL=path/to/kubectl tests/first-light.sh [POINT...]
#
# With points named ("3", "4"), only those run, after the first, which starts the house; 5 and 9 need 3 and 4. It
# runs in network and mount namespaces of its own, as an instance of its own, and leaves nothing behind. Waits are
# bounded, and five times as long as the behaviour may take. tests/first-light.points says which points must pass.
set -u

: "${ONDOL:?set ONDOL to the ondol binary}" "${KUBECTL:?set KUBECTL to a kubectl}"
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

if [ "${FIRST_LIGHT_INSIDE:-}" != yes ]; then
    # Not `ip netns exec`: that would mount another /sys and hide the cgroups.
    FIRST_LIGHT_INSIDE=yes exec unshare --net --mount --propagation private "$0" "$@"
fi
ip link set lo up

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
trap clean_up EXIT

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

# --- 1: up ---------------------------------------------------------------------------------------------------------
up() { ondol up >"$scratch/up" 2>&1 || because "$(tail -n 3 "$scratch/up" | tr '\n' ' ')"; }
up_says_steps() { [ "$(wc -l <"$scratch/up")" -ge 2 ] || because "it showed no steps"; }
node_is_ready() { [ "$(k get nodes -o 'jsonpath={.items[*].status.conditions[?(@.type=="Ready")].status}')" = True ]; }
context_is_current() {
    local current; current=$(k config current-context)
    case "$current" in ondol*) ;; *) because "the current context is \"$current\""; return 1;; esac
    has "$(k config get-contexts -o name)" untouched
}
second_up() { prints "already runs" ondol up; }
status_json() {
    local out; out=$(ondol status -o json) || { because "$out"; return 1; }
    for word in version pid node pods; do has "$out" "$word" || return 1; done
}
own_log() { [ -n "$(ondol logs 2>&1 | head -n 1)" ] || because "it has no log"; }

point_1() {
    k config set-cluster untouched --server=https://192.0.2.1 >/dev/null
    k config set-context untouched --cluster=untouched >/dev/null
    snapshot >"$scratch/before"
    point 1.up up || true
    if ! k get --raw /readyz >"$scratch/ready" 2>&1; then
        fail 1.ready "the API does not answer: $(tail -n 1 "$scratch/ready")"
        tail -n 20 "$scratch/up" >&2
        exit 1
    fi
    point 1.ready node_is_ready
    point 1.steps up_says_steps
    point 1.context context_is_current
    point 1.second-up second_up
    point 1.status status_json
    point 1.logs own_log
    point 1.version prints 'Server Version: v1.37' k version
}

# --- 2, 3: the demo images, a Deployment ---------------------------------------------------------------------------
images_are_carried() {
    local out; out=$(ondol image list 2>&1) || { because "$out"; return 1; }
    has "$out" ondol.local/echo
}
image_saves() { ondol image save ondol.local/echo:v1 >"$scratch/echo.tar" && tar -tf "$scratch/echo.tar" >/dev/null; }
# An image with the machine's static busybox, in the form of `docker save`.
import_busybox() {
    local folder="$scratch/busybox" layer config
    mkdir -p "$folder/root/bin" "$folder/root/tmp" && cp "$(command -v busybox)" "$folder/root/bin/busybox"
    ln -s busybox "$folder/root/bin/tar"
    tar -C "$folder/root" -cf "$folder/layer.tar" . || return 1
    layer=$(sha256sum "$folder/layer.tar" | cut -d' ' -f1)
    printf '{"architecture":"%s","os":"linux","config":{"Env":["PATH=/bin"]},"rootfs":{"type":"layers","diff_ids":["sha256:%s"]}}' \
        "$(dpkg --print-architecture)" "$layer" >"$folder/config.json"
    printf '[{"Config":"config.json","RepoTags":["ondol.local/first-light/busybox:1"],"Layers":["layer.tar"]}]' >"$folder/manifest.json"
    tar -C "$folder" -cf "$folder/image.tar" manifest.json config.json layer.tar || return 1
    local out; out=$(ondol image import "$folder/image.tar" 2>&1) || because "$out"
}
point_2() {
    point 2.images images_are_carried
    point 2.import import_busybox
    point 2.save image_saves
}

own_addresses() {
    local ips; ips=$(k get pods -l app=backend -o 'jsonpath={range .items[*]}{.status.podIP}{"\n"}{end}' | sort -u | grep -c .)
    equals "$ips" 3
}
pod_answers() { has "$(fetch "http://$(k get pods -l app=backend -o 'jsonpath={.items[0].status.podIP}'):8080/")" '"version"'; }
deleted_pod_is_replaced() {
    local gone; gone=$(any_pod backend)
    k delete pod "$gone" --wait=true >/dev/null || return 1
    within 50 ready_is deployment/backend 3 || return 1
    ! k get pod "$gone" >/dev/null 2>&1 || because "$gone is still there"
}
create_backend() { k create deployment backend --image=ondol.local/echo:v1 --replicas=3 --port=8080 >/dev/null; }
scale_to() { k scale deployment/backend --replicas="$1" >/dev/null && within 50 ready_is deployment/backend "$1"; }
count_pods() { equals "$(k get pods -l "app=$1" --no-headers 2>/dev/null | grep -c .)" "$2"; }
deployment_goes() {
    k create deployment short --image=ondol.local/echo:v1 >/dev/null && within 50 ready_is deployment/short 1 || return 1
    k delete deployment short >/dev/null || return 1
    within 60 count_pods short 0
}
point_3() {
    point 3.create create_backend
    point 3.ready within 50 ready_is deployment/backend 3
    point 3.addresses own_addresses
    point 3.answers within 10 pod_answers
    point 3.scale-up scale_to 5
    point 3.scale-down scale_to 3
    point 3.pods-after-scaling within 60 count_pods backend 3
    point 3.delete-pod deleted_pod_is_replaced
    point 3.delete-deployment deployment_goes
}

# --- 4: Services ---------------------------------------------------------------------------------------------------
six_thousand() {
    k set env deployment/backend PORT=6000 >/dev/null && k rollout status deployment/backend --timeout=60s >/dev/null
}
expose_backend() {
    k create service clusterip backend --tcp=3306:6000 >/dev/null && k create deployment client --image=ondol.local/echo:v1 >/dev/null \
        && within 50 ready_is deployment/client 1
}
balanced() {
    local client seen; client=$(any_pod client)
    : >"$scratch/answers"
    for _ in $(seq 30); do get_in_pod "$client" http://backend:3306/ >>"$scratch/answers" 2>&1; echo >>"$scratch/answers"; done
    seen=$(grep -o '"pod": *"[^"]*"' "$scratch/answers" | sort -u | grep -c .)
    [ "$seen" -eq 3 ] || because "$seen pods answered: $(tail -n 2 "$scratch/answers" | tr '\n' ' ')"
}
full_name() { has "$(get_in_pod "$(any_pod client)" http://backend.default.svc.cluster.local:3306/ 2>&1)" '"version"'; }
node_port() {
    k expose deployment backend --name=backend-node --type=NodePort --port=80 --target-port=6000 >/dev/null || return 1
    local port; port=$(value service/backend-node '{.spec.ports[0].nodePort}')
    within 10 fetch -f "http://127.0.0.1:$port/"
}
load_balancer() {
    k expose deployment backend --name=backend-lb --type=LoadBalancer --port=8888 --target-port=6000 >/dev/null || return 1
    within 10 has_ingress || return 1
    within 10 fetch -f "http://$(value service/backend-lb '{.status.loadBalancer.ingress[0].ip}'):8888/"
}
has_ingress() { [ -n "$(value service/backend-lb '{.status.loadBalancer.ingress[0].ip}')" ]; }
headless() {
    k create service clusterip backend-headless --clusterip=None --tcp=6000:6000 >/dev/null || return 1
    k patch service backend-headless -p '{"spec":{"selector":{"app":"backend"}}}' >/dev/null || return 1
    within 10 get_in_pod "$(any_pod client)" http://backend-headless:6000/
}
external_name() {
    k create service externalname elsewhere --external-name backend.default.svc.cluster.local >/dev/null || return 1
    within 10 get_in_pod "$(any_pod client)" http://elsewhere:3306/
}
itself() {
    k expose deployment client --port=80 --target-port=8080 >/dev/null || return 1
    within 10 get_in_pod "$(any_pod client)" http://client/
}
affinity() {
    k patch service backend -p '{"spec":{"sessionAffinity":"ClientIP"}}' >/dev/null || return 1
    within 10 one_pod_answers
    local done=$?
    k patch service backend -p '{"spec":{"sessionAffinity":"None"}}' >/dev/null
    return $done
}
one_pod_answers() {
    local address; address=$(value service/backend '{.spec.clusterIP}')
    for _ in $(seq 20); do fetch "http://$address:3306/"; echo; done | grep -o '"pod": *"[^"]*"' | sort -u >"$scratch/pods"
    equals "$(grep -c . "$scratch/pods")" 1
}
point_4() {
    point 4.port six_thousand
    point 4.service expose_backend
    point 4.balanced balanced
    point 4.full-name full_name
    point 4.node-port node_port
    point 4.load-balancer load_balancer
    point 4.headless headless
    point 4.external-name external_name
    point 4.itself itself
    point 4.affinity affinity
}

# --- 5: rollouts ---------------------------------------------------------------------------------------------------
backend_url() { echo "http://$(value service/backend '{.spec.clusterIP}'):3306/"; }
rolls_without_failure() {
    start_load "$(backend_url)"
    k set image deployment/backend echo=ondol.local/echo:v2 >/dev/null && k rollout status deployment/backend --timeout=60s >/dev/null
    local done=$?
    stop_load && [ $done -eq 0 ]
}
new_version_answers() { has "$(fetch "$(backend_url)")" v2; }
history_is_kept() { [ "$(k rollout history deployment/backend | grep -cE '^[0-9]')" -ge 2 ] || because "$(k rollout history deployment/backend | tr '\n' ' ')"; }
bad_image_stands_still() {
    k set image deployment/backend echo=ondol.local/no-such:v9 >/dev/null || return 1
    within 50 has_waiting_pod || return 1
    local serving; serving=$(value deployment/backend '{.status.availableReplicas}')
    [ "${serving:-0}" -ge 2 ] || { because "only ${serving:-0} are available"; return 1; }
    fetch -f "$(backend_url)" >/dev/null || because "the old pods do not serve"
}
has_waiting_pod() {
    k get pods -l app=backend -o 'jsonpath={.items[*].status.containerStatuses[*].state.waiting.reason}' | grep -qE 'ErrImage|ImagePull|InvalidImage'
}
why_says() { local out; out=$(ondol why deployment/backend 2>&1) || { because "$out"; return 1; }; has "$out" no-such; }
undo_heals() { k rollout undo deployment/backend >/dev/null && k rollout status deployment/backend --timeout=60s >/dev/null; }
pause_and_resume() {
    k rollout pause deployment/backend >/dev/null && k set env deployment/backend PAUSED=1 >/dev/null || return 1
    k rollout resume deployment/backend >/dev/null && k rollout status deployment/backend --timeout=60s >/dev/null
}
restart() { k rollout restart deployment/backend >/dev/null && k rollout status deployment/backend --timeout=60s >/dev/null; }
undo_to_first() {
    local first; first=$(k rollout history deployment/backend | grep -oE '^[0-9]+' | head -n 1)
    k rollout undo deployment/backend --to-revision="$first" >/dev/null && k rollout status deployment/backend --timeout=60s >/dev/null
}
point_5() {
    point 5.rolls rolls_without_failure
    point 5.new-version within 10 new_version_answers
    point 5.history history_is_kept
    point 5.bad-image bad_image_stands_still
    point 5.why why_says
    point 5.undo undo_heals
    point 5.pause pause_and_resume
    point 5.restart restart
    point 5.undo-to-revision undo_to_first
    # The first revision listened elsewhere; what follows asks the Service again.
    k set env deployment/backend PORT=6000 >/dev/null && k rollout status deployment/backend --timeout=60s >/dev/null
}

# --- 6: blue/green and canary --------------------------------------------------------------------------------------
blue_and_green() {
    for version in v1 v2; do
        k create deployment "colour-$version" --image="ondol.local/echo:$version" --replicas=2 >/dev/null || return 1
        within 50 ready_is "deployment/colour-$version" 2 || return 1
    done
    k create service clusterip colour --tcp=80:8080 >/dev/null || return 1
    k patch service colour -p '{"spec":{"selector":{"app":"colour-v1"}}}' >/dev/null || return 1
    local url; url="http://$(value service/colour '{.spec.clusterIP}')/"
    within 10 fetch -f "$url" || return 1
    start_load "$url"
    k patch service colour -p '{"spec":{"selector":{"app":"colour-v2"}}}' >/dev/null
    local from to; from=$(date +%s%N)
    within 10 is_v2 "$url" || { stop_load; return 1; }
    to=$(date +%s%N)
    for _ in $(seq 50); do is_v2 "$url" || { stop_load; because "an old pod answered a new connection"; return 1; }; done
    stop_load || return 1
    [ $(( (to - from) / 1000000 )) -le 500 ] || because "it took $(( (to - from) / 1000000 )) ms"
}
is_v2() { case "$(fetch "$1")" in *'"v2"'*) ;; *) return 1;; esac; }
canary() {
    sed "s/NAME/stable/g; s/REPLICAS/9/; s/VERSION/v1/" "$here/first-light/canary.yaml" | k apply -f - >/dev/null || return 1
    sed "s/NAME/fresh/g; s/REPLICAS/1/; s/VERSION/v2/" "$here/first-light/canary.yaml" | k apply -f - >/dev/null || return 1
    k create service clusterip my-app --tcp=80:8080 >/dev/null || return 1
    within 100 ready_is deployment/stable 9 && within 50 ready_is deployment/fresh 1 || return 1
    local url count fresh; url="http://$(value service/my-app '{.spec.clusterIP}')"; count=${FIRST_LIGHT_REQUESTS:-10000}
    within 10 fetch -f "$url/" || return 1
    fresh=$(curl -s -H 'Connection: close' "$url/?[1-$count]" | grep -o '"version": *"v2"' | grep -c .)
    [ $((fresh * 100)) -ge $((count * 8)) ] && [ $((fresh * 100)) -le $((count * 12)) ] || because "$fresh of $count"
}
point_6() {
    point 6.blue-green blue_and_green
    point 6.canary canary
    k delete deployment colour-v1 colour-v2 stable fresh --wait=false >/dev/null 2>&1
}

# --- 7: several containers -----------------------------------------------------------------------------------------
two_containers() {
    k apply -f "$here/first-light/two.yaml" >/dev/null && k wait pod/two --for=condition=Ready --timeout=50s >/dev/null || return 1
    prints '"version"' k exec two -c front -- /bin/busybox wget -qO- http://127.0.0.1:9000/
}
shared_folder() { prints warm k exec two -c reader -- /bin/busybox cat /shared/floor; }
inits_in_order() {
    k apply -f "$here/first-light/inits.yaml" >/dev/null && k wait pod/inits --for=condition=Ready --timeout=60s >/dev/null || return 1
    local first second main
    first=$(value pod/inits '{.status.initContainerStatuses[?(@.name=="first")].state.terminated.finishedAt}')
    second=$(value pod/inits '{.status.initContainerStatuses[?(@.name=="second")].state.terminated.startedAt}')
    main=$(value pod/inits '{.status.containerStatuses[0].state.running.startedAt}')
    [ -n "$first" ] && [ -n "$second" ] && [ -n "$main" ] || { because "times are missing: $first, $second, $main"; return 1; }
    [[ ! "$second" < "$first" && ! "$main" < "$second" ]] || because "$first, $second, $main"
}
sidecar_runs() {
    [ -n "$(value pod/inits '{.status.initContainerStatuses[?(@.name=="sidecar")].state.running.startedAt}')" ] || because "it does not run"
}
point_7() {
    point 7.localhost two_containers
    point 7.empty-dir shared_folder
    point 7.inits inits_in_order
    point 7.sidecar sidecar_runs
    k delete pod inits --wait=false >/dev/null 2>&1
}

# --- 8: kubectl ----------------------------------------------------------------------------------------------------
port_forward() {
    timeout 30 "$KUBECTL" port-forward deployment/client 18080:8080 >"$scratch/forward" 2>&1 &
    local forward=$! done
    within 15 fetch -f http://127.0.0.1:18080/; done=$?
    kill $forward 2>/dev/null; wait $forward 2>/dev/null
    return $done
}
through_proxy() {
    timeout 30 "$KUBECTL" proxy --port=18001 >/dev/null 2>&1 &
    local proxy=$! done
    within 15 fetch -f http://127.0.0.1:18001/api/v1/namespaces/default; done=$?
    kill $proxy 2>/dev/null; wait $proxy 2>/dev/null
    return $done
}
attach_sees() {
    timeout 20 "$KUBECTL" attach "$(any_pod client)" >"$scratch/attach" 2>&1 & local attach=$!
    within 10 grep -qiE 'command prompt|seeing|echo' "$scratch/attach"; local done=$?
    kill $attach 2>/dev/null; wait $attach 2>/dev/null
    return $done
}
# Not a pod: the token volume that every pod is given makes kubectl send an order of lists, on upstream too.
apply_twice() {
    sed "s/NAME/applied/g; s/REPLICAS/1/; s/VERSION/v1/" "$here/first-light/canary.yaml" >"$scratch/applied.yaml"
    k apply -f "$scratch/applied.yaml" >/dev/null && prints unchanged k apply -f "$scratch/applied.yaml"
    local done=$?
    k delete -f "$scratch/applied.yaml" --wait=false >/dev/null 2>&1
    return $done
}
diff_shows() {
    sed 's/value: "9000"/value: "9001"/' "$here/first-light/two.yaml" >"$scratch/changed.yaml"
    k label -f "$here/first-light/two.yaml" season=winter --overwrite >/dev/null || return 1
    sed 's/^  name: two$/  name: two\n  labels: {season: summer}/' "$here/first-light/two.yaml" >"$scratch/changed.yaml"
    local out; out=$(k diff -f "$scratch/changed.yaml" 2>&1); [ $? -eq 1 ] || { because "diff says: $out"; return 1; }
    has "$out" summer
}
edit_changes() {
    printf '#!/bin/sh\nsed -i "s/season: winter/season: spring/" "$1"\n' >"$scratch/editor"; chmod +x "$scratch/editor"
    KUBE_EDITOR="$scratch/editor" k edit pod two >/dev/null 2>&1 || { because "edit failed"; return 1; }
    value_is pod/two '{.metadata.labels.season}' spring
}
patches() {
    k patch deployment client --type=merge -p '{"metadata":{"labels":{"a":"1"}}}' >/dev/null || return 1
    k patch deployment client --type=json -p '[{"op":"add","path":"/metadata/labels/b","value":"2"}]' >/dev/null || return 1
    k patch deployment client --type=strategic -p '{"metadata":{"labels":{"c":"3"}}}' >/dev/null || return 1
    equals "$(value deployment/client '{.metadata.labels.a}{.metadata.labels.b}{.metadata.labels.c}')" 123
}
drain_honours_budget() {
    local node; node=$(k get nodes -o 'jsonpath={.items[0].metadata.name}')
    k create poddisruptionbudget backend --selector=app=backend --min-available=3 >/dev/null || return 1
    within 20 value_is poddisruptionbudget/backend '{.status.currentHealthy}' 3 || return 1
    k drain "$node" --ignore-daemonsets --delete-emptydir-data --force --pod-selector=app=backend --timeout=10s >"$scratch/drain" 2>&1
    local out; out=$(cat "$scratch/drain")
    k uncordon "$node" >/dev/null; k delete poddisruptionbudget backend >/dev/null
    has "$out" 'disruption budget'
}
cordon() {
    local node; node=$(k get nodes -o 'jsonpath={.items[0].metadata.name}')
    k cordon "$node" >/dev/null && value_is "node/$node" '{.spec.unschedulable}' true && k uncordon "$node" >/dev/null
}
logs_of_echo() { prints 'listens' k logs "$(any_pod client)"; }
cp_both_ways() {
    echo floor >"$scratch/warm"
    k cp "$scratch/warm" two:/tmp/warm -c front >/dev/null || return 1
    k cp two:/tmp/warm "$scratch/back" -c front >/dev/null || return 1
    equals "$(cat "$scratch/back")" floor
}
run_once() { prints '"version"' k run once --rm -i --restart=Never --image=ondol.local/echo:v1 --command -- /bin/get http://backend:3306/; }
wait_for_deletion() { k delete pod two --wait=false >/dev/null && k wait --for=delete pod/two --timeout=60s >/dev/null; }
dry_run() { k create configmap dry --from-literal=a=b --dry-run=server >/dev/null && ! k get configmap dry >/dev/null 2>&1; }
typo_is_named() {
    printf 'apiVersion: v1\nkind: Pod\nmetadata: {name: typo}\nspec:\n  containers: [{name: a, imagee: b}]\n' >"$scratch/typo.yaml"
    local out; out=$(k create -f "$scratch/typo.yaml" 2>&1) && { because "it was taken"; return 1; }
    has "$out" 'unknown field "spec.containers[0].imagee"'
}
point_8() {
    point 8.logs logs_of_echo
    point 8.logs-options prints 'listens' k logs -l app=client --tail=5 --timestamps --all-containers
    point 8.exec prints '"version"' k exec deployment/client -- /bin/get http://127.0.0.1:8080/
    point 8.attach attach_sees
    point 8.cp cp_both_ways
    point 8.port-forward port_forward
    point 8.proxy through_proxy
    point 8.apply apply_twice
    point 8.diff diff_shows
    point 8.edit edit_changes
    point 8.patch patches
    point 8.label k label deployment client colour=red --overwrite
    point 8.annotate k annotate deployment client note=warm --overwrite
    point 8.describe prints 'Events' k describe pod "$(any_pod client)"
    point 8.events k events --all-namespaces
    point 8.explain prints 'maxSurge' k explain deployment.spec.strategy.rollingUpdate
    point 8.api-resources prints 'deployments' k api-resources
    point 8.wait wait_for_deletion
    point 8.selectors prints "client" k get pods --field-selector=status.phase=Running --sort-by=.metadata.name -A -o wide
    point 8.dry-run dry_run
    point 8.typo typo_is_named
    point 8.run run_once
    point 8.cordon cordon
    point 8.drain drain_honours_budget
}

# --- 9: faults -----------------------------------------------------------------------------------------------------
containers_of() { k get pods -l "app=$1" -o 'jsonpath={.items[*].status.containerStatuses[*].containerID}'; }
name_resolves() { get_in_pod "$(any_pod client)" http://backend:3306/; }
survives_kill() {
    local before after pid; before=$(containers_of backend); pid=$(server_pid)
    [ -n "$before" ] && [ -n "$pid" ] || { because "no containers or no pid"; return 1; }
    local address; address=$(backend_url)
    kill -9 "$pid"
    fetch -f "$address" >/dev/null || { because "the pods do not answer without the server"; ondol up >/dev/null 2>&1; return 1; }
    ondol up >"$scratch/up" 2>&1 || { because "$(tail -n 2 "$scratch/up")"; return 1; }
    within 5 name_resolves || return 1
    within 50 ready_is deployment/backend 3 || return 1
    after=$(containers_of backend); equals "$after" "$before"
}
keeps_what_it_acknowledged() {
    k create configmap kept --from-literal=warm=yes >/dev/null || return 1
    kill -9 "$(server_pid)"
    ondol up >"$scratch/up" 2>&1 || { because "$(tail -n 3 "$scratch/up" | tr '\n' ' ')"; return 1; }
    value_is configmap/kept '{.data.warm}' yes
}
point_9() {
    point 9.kill survives_kill
    point 9.acknowledged keeps_what_it_acknowledged
}

# --- down, up again, wiped -----------------------------------------------------------------------------------------
restarts_are_counted() {
    [ "$(value "pod/$1" '{.status.containerStatuses[0].restartCount}')" -gt "$2" ] 2>/dev/null
}
comes_back() {
    local pod uid count; pod=$(any_pod backend); uid=$(value "pod/$pod" '{.metadata.uid}')
    count=$(value "pod/$pod" '{.status.containerStatuses[0].restartCount}')
    ondol down >"$scratch/down" 2>&1 || { because "$(tail -n 2 "$scratch/down")"; return 1; }
    ! k get --raw /readyz >/dev/null 2>&1 || { because "the API still answers"; return 1; }
    ondol up >"$scratch/up" 2>&1 || { because "$(tail -n 2 "$scratch/up")"; return 1; }
    value_is "pod/$pod" '{.metadata.uid}' "$uid" || return 1
    within 50 restarts_are_counted "$pod" "${count:-0}"
}
leaves_nothing() {
    ondol down --wipe --yes >"$scratch/down" 2>&1 || { because "$(tail -n 2 "$scratch/down" | tr '\n' ' ')"; return 1; }
    snapshot >"$scratch/after"
    # Others may use the machine meanwhile, and what was theirs may go: only what has come counts.
    diff "$scratch/before" "$scratch/after" | grep '^>' >"$scratch/left"
    [ ! -s "$scratch/left" ] || because "left behind: $(head -n 8 "$scratch/left" | tr '\n' ' ')"
}
wipes_a_dead_server() {
    ondol up >"$scratch/up" 2>&1 || { because "$(tail -n 2 "$scratch/up" | tr '\n' ' ')"; return 1; }
    kill -9 "$(server_pid)"
    leaves_nothing
}
point_last() {
    point 1.down-and-up comes_back
    point 1.wipe leaves_nothing
    point 1.wipe-dead wipes_a_dead_server
}

points=("$@")
[ $# -gt 0 ] || points=(2 3 4 5 6 7 8 9 last)
point_1
for number in "${points[@]}"; do
    [ "$number" = 1 ] || "point_$number"
done
exit $((failed > 0))
