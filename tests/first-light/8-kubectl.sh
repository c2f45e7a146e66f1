# 8: the commands of kubectl. Sourced by tests/first-light.sh.

# Not a pod: the token volume that every pod is given makes kubectl send an order of lists, on upstream too.
apply_twice() {
    sed "s/NAME/applied/g; s/REPLICAS/1/; s/VERSION/v1/" "$here/first-light/canary.yaml" >"$scratch/applied.yaml"
    k apply -f "$scratch/applied.yaml" >/dev/null && prints unchanged k apply -f "$scratch/applied.yaml"
    local done=$?
    k delete -f "$scratch/applied.yaml" --wait=false >/dev/null 2>&1
    return $done
}
diff_shows() {
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
logs_of_echo() { prints 'listens' k logs "$(any_pod client)"; }
cp_both_ways() {
    echo floor >"$scratch/warm"
    k cp "$scratch/warm" two:/tmp/warm -c front >/dev/null || return 1
    k cp two:/tmp/warm "$scratch/back" -c front >/dev/null || return 1
    equals "$(cat "$scratch/back")" floor
}
run_once() { prints '"version"' k run once --rm -i --restart=Never --image=ondol.local/echo:v1 --command -- /bin/get http://backend:3306/; }
wait_for_deletion() { k delete pod two --wait=false >/dev/null && k wait --for=delete pod/two --timeout=60s >/dev/null; }
typo_is_named() {
    printf 'apiVersion: v1\nkind: Pod\nmetadata: {name: typo}\nspec:\n  containers: [{name: a, imagee: b}]\n' >"$scratch/typo.yaml"
    local out; out=$(k create -f "$scratch/typo.yaml" 2>&1) && { because "it was taken"; return 1; }
    has "$out" 'unknown field "spec.containers[0].imagee"'
}
point_8() {
    point 8.logs logs_of_echo
    point 8.logs-options prints 'listens' k logs -l app=client --tail=5 --timestamps --all-containers
    point 8.exec prints '"version"' k exec deployment/client -- /bin/get http://127.0.0.1:8080/
    point 8.cp cp_both_ways
    point 8.apply apply_twice
    point 8.diff diff_shows
    point 8.edit edit_changes
    point 8.wait wait_for_deletion
    point 8.typo typo_is_named
    point 8.run run_once
    stream_points
    output_points
    change_points
}
