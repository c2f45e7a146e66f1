# 8: the commands of kubectl. Sourced by tests/first-light.sh.

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
