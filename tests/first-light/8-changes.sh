# 8 again: the commands that change objects. Sourced by tests/first-light.sh.

label_of() { equals "$(value deployment/client "{.metadata.$1}")" "$2"; }
labels() {
    k label deployment client colour=red >/dev/null && label_of labels.colour red || return 1
    refused 'already has a value' k label deployment client colour=blue || return 1
    k label deployment client colour=blue --overwrite >/dev/null && label_of labels.colour blue || return 1
    k label deployment client colour- >/dev/null && label_of labels.colour ''
}
annotations() {
    k annotate deployment client note='it is warm' >/dev/null && label_of annotations.note 'it is warm' || return 1
    k annotate deployment client note- >/dev/null && label_of annotations.note ''
}
patches() {
    k patch deployment client --type=merge -p '{"metadata":{"labels":{"a":"1"}}}' >/dev/null || return 1
    k patch deployment client --type=json -p '[{"op":"add","path":"/metadata/labels/b","value":"2"}]' >/dev/null || return 1
    k patch deployment client --type=strategic -p '{"metadata":{"labels":{"c":"3"}}}' >/dev/null || return 1
    equals "$(value deployment/client '{.metadata.labels.a}{.metadata.labels.b}{.metadata.labels.c}')" 123 || return 1
    # A test that does not hold changes nothing.
    refused 'The request is invalid' k patch deployment client --type=json -p '[{"op":"test","path":"/metadata/labels/b","value":"9"}]'
}
patches_of_parts() {
    k patch deployment client --subresource=scale --type=merge -p '{"spec":{"replicas":2}}' >/dev/null && within 50 ready_is deployment/client 2 || return 1
    k scale deployment/client --replicas=1 --current-replicas=2 >/dev/null && prints '"replicas": 1' k get deployment client --subresource=scale -o json || return 1
    k patch pod tools --subresource=status --type=strategic -p '{"status":{"conditions":[{"type":"example.com/warm","status":"True"}]}}' >/dev/null || return 1
    value_is pod/tools '{.status.conditions[?(@.type=="example.com/warm")].status}' True
}
pair() { printf 'apiVersion: v1\nkind: ConfigMap\nmetadata: {name: %s, labels: {set: pair}}\ndata: {a: "%s"}\n---\n' "$1" "$2"; }
prunes() {
    { pair left 1; pair right 1; } | k apply -f - >/dev/null || return 1
    pair left 2 | k apply --prune -l set=pair -f - >"$scratch/pruned" 2>&1 || { because "$(tail -n 1 "$scratch/pruned")"; return 1; }
    has "$(cat "$scratch/pruned")" 'configmap/right pruned' && value_is configmap/left '{.data.a}' 2 && refused 'not found' k get configmap right
}
replaces() {
    local before; before=$(value configmap/left '{.metadata.uid}')
    pair left 3 | k replace -f - >/dev/null && value_is configmap/left '{.metadata.uid}{.data.a}' "${before}3" || return 1
    pair left 4 | k replace --force -f - >/dev/null && value_is configmap/left '{.data.a}' 4 || return 1
    [ "$(value configmap/left '{.metadata.uid}')" != "$before" ] || because "it is the same object"
    k delete configmap left >/dev/null
}
# house NAME: a Deployment, its set and its pod are there.
house() { k create deployment "$1" --image=ondol.local/echo:v1 >/dev/null && within 50 ready_is "deployment/$1" 1; }
counts() { equals "$(k get replicasets,pods -l "app=$1" -o name 2>/dev/null | grep -c .)" "$2"; }
cascades() {
    house cascade && k delete deployment cascade --cascade=foreground --timeout=60s >/dev/null && counts cascade 0 || return 1
    house cascade && k delete deployment cascade --cascade=orphan >/dev/null || return 1
    value_is "$(k get replicasets -l app=cascade -o name)" '{.metadata.ownerReferences}' '' && counts cascade 2 || return 1
    k delete replicasets -l app=cascade --cascade=orphan >/dev/null && counts cascade 1 || return 1
    k delete pods -l app=cascade --wait=false >/dev/null
    house background && k delete deployment background --cascade=background >/dev/null && within 60 counts background 0
}
exposes() {
    k expose pod tools --port=80 --target-port=8080 --name=exposed >/dev/null && value_is service/exposed '{.spec.selector.run}' tools && k delete service exposed >/dev/null
}
runs_on_a_terminal() {
    { echo 'echo warm-$((6*7))'; sleep 3; echo exit; sleep 1; } | terminal "$KUBECTL" run shell --rm -it --restart=Never \
        --image=ondol.local/first-light/busybox:1 --command -- /bin/busybox sh >"$scratch/terminal"
    has "$(cat "$scratch/terminal")" warm-42 && has "$(cat "$scratch/terminal")" 'pod "shell" deleted'
}
sets() {
    k set env deployment/client WARM=yes >/dev/null && k set resources deployment/client --limits=memory=64Mi >/dev/null || return 1
    k rollout status deployment/client --timeout=60s >/dev/null && prints yes k set env deployment/client --list
}

# The node: kept free, emptied, given back.
cordon() {
    k cordon "$1" >/dev/null && value_is "node/$1" '{.spec.unschedulable}' true && prints SchedulingDisabled k get node "$1" || return 1
    k run waits --image=ondol.local/echo:v1 >/dev/null && event_says pod/waits '1 node(s) were unschedulable' || return 1
    prints 'kubectl uncordon' ondol why pod/waits && k uncordon "$1" >/dev/null && ready_pod waits && k delete pod waits --wait=false >/dev/null
}
drain() { k drain "$1" --ignore-daemonsets --delete-emptydir-data --force --pod-selector=app=backend --timeout="$2"; }
drain_honours_budget() {
    k create poddisruptionbudget backend --selector=app=backend --min-available=3 >/dev/null || return 1
    within 20 value_is poddisruptionbudget/backend '{.status.currentHealthy}' 3 || return 1
    refused 'disruption budget' drain "$1" 3s || return 1
    prints 'PodDisruptionBudget backend lets none' ondol why "node/$1" && value_is deployment/backend '{.status.readyReplicas}' 3 || return 1
    k delete poddisruptionbudget backend >/dev/null && prints 'drained' drain "$1" 50s || return 1
    # They are gone, and others wait for the node.
    within 20 value_is deployment/backend '{.status.readyReplicas}' '' || return 1
    k uncordon "$1" >/dev/null && within 50 ready_is deployment/backend 3
}
taints() {
    k taint node "$1" warm=no:NoSchedule >/dev/null && k run averse --image=ondol.local/echo:v1 >/dev/null || return 1
    event_says pod/averse 'untolerated taint' && prints 'kubectl taint node' ondol why pod/averse || return 1
    k run tolerant --image=ondol.local/echo:v1 --overrides='{"spec":{"tolerations":[{"key":"warm","operator":"Exists"},{"key":"out","operator":"Exists"}]}}' >/dev/null && ready_pod tolerant || return 1
    k taint node "$1" warm- >/dev/null && ready_pod averse || return 1
    k taint node "$1" out=now:NoExecute >/dev/null && k wait pod/averse --for=delete --timeout=60s >/dev/null || { k taint node "$1" out-; return 1; }
    ready_pod tolerant; local done=$?
    k taint node "$1" out- >/dev/null && k delete pod tolerant --wait=false >/dev/null
    within 50 ready_is deployment/backend 3 && within 50 ready_is deployment/client 1 && return $done
}

change_points() {
    point 8.label labels
    point 8.annotate annotations
    point 8.patch patches
    point 8.subresources patches_of_parts
    point 8.prune prunes
    point 8.replace replaces
    point 8.cascade cascades
    point 8.expose exposes
    point 8.run-terminal runs_on_a_terminal
    point 8.set sets
    local node; node=$(node_name)
    point 8.cordon cordon "$node"
    point 8.drain drain_honours_budget "$node"
    point 8.taint taints "$node"
    k uncordon "$node" >/dev/null 2>&1
}
