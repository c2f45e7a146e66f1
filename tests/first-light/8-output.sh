# 8 again: every form in which kubectl shows objects. Sourced by tests/first-light.sh.

# shows WORDS ARGUMENTS...: `kubectl get` of the Deployment `client` prints them.
shows() { local wanted=$1; shift; prints "$wanted" k get deployment client "$@"; }
every_form() {
    shows 'client   1/1' && shows ondol.local/echo:v1 -o wide && equals "$(k get deployment client -o name)" deployment.apps/client || return 1
    shows '"kind": "Deployment"' -o json && shows 'kind: Deployment' -o yaml && shows 'kind: "Deployment"' -o kyaml || return 1
    equals "$(k get deployment client -o 'jsonpath={.metadata.name}')" client && shows '"client"' -o 'jsonpath-as-json={.metadata.name}' || return 1
    equals "$(k get deployment client -o 'go-template={{.metadata.name}}')" client \
        && equals "$(k get deployment client -o template --template='{{.metadata.name}}')" client || return 1
    equals "$(k get deployment client -o 'custom-columns=A:.metadata.name,B:.spec.replicas' | tr -s ' \n' '  ')" 'A B client 1 ' || return 1
    echo '{{.metadata.name}}' >"$scratch/template"; echo '{.metadata.name}' >"$scratch/path"; printf 'NAME\n.metadata.name\n' >"$scratch/columns"
    shows client -o "go-template-file=$scratch/template" && shows client -o "jsonpath-file=$scratch/path" \
        && shows client -o "custom-columns-file=$scratch/columns" || return 1
    shows 'app=client' --show-labels && shows APP -L app && shows managedFields -o yaml --show-managed-fields
}
configs() { local name; for name in "$@"; do k create configmap "$name" --from-literal=a=b >/dev/null || return 1; done; }
watches() {
    configs watched-before || return 1
    background "$KUBECTL" get configmaps --watch-only --output-watch-events
    # It says nothing of what was there; so changes are made until it says one.
    within 10 watch_has_begun || { end_background; return 1; }
    configs watched && k label configmap watched a=b >/dev/null && k delete configmap watched >/dev/null
    within 10 background_says '^DELETED +watched '; local done=$?
    end_background
    [ $done -eq 0 ] && background_says '^ADDED +watched ' && background_says '^MODIFIED +watched ' || { because "$(tr '\n' ';' <"$scratch/background")"; return 1; }
    ! background_says watched-before || { because "it told what was there before"; return 1; }
    background "$KUBECTL" get configmap watched-before --watch -o name
    within 10 background_says '^configmap/watched-before$' && k label configmap watched-before a=b >/dev/null && within 10 lines_of 2; done=$?
    end_background; return $done
}
watch_has_begun() { k annotate configmap kube-root-ca.crt "round=$RANDOM" --overwrite >/dev/null && background_says kube-root-ca.crt; }
lines_of() { [ "$(grep -c . "$scratch/background")" -ge "$1" ]; }
dry_runs() {
    local how; for how in client server; do
        prints 'dry run)' k create configmap dry --from-literal=a=b --dry-run="$how" || return 1
        refused 'not found' k get configmap dry || return 1
    done
    prints 'kind: ConfigMap' k create configmap dry --dry-run=client -o yaml && prints uid: k create configmap dry --dry-run=server -o yaml || return 1
    prints '(server dry run)' k delete configmap watched-before --dry-run=server && k get configmap watched-before >/dev/null
}
selections() {
    equals "$(k get pods --field-selector=metadata.name=tools -o name)" pod/tools || return 1
    equals "$(k get pods --field-selector=status.phase=Running,spec.nodeName!=none -l run=tools -o name)" pod/tools || return 1
    equals "$(k get pods -l 'app in (client),app!=backend' -o name | grep -c .)" 1 && equals "$(k get pods -l '!app,run' -o name)" pod/tools || return 1
    refused 'field label not supported' k get pods --field-selector=spec.none=x || return 1
    # The same in one piece and in many.
    equals "$(k get configmaps -A --chunk-size=1 -o name | sort)" "$(k get configmaps -A -o name | sort)" || return 1
    k get pods -A --sort-by=.metadata.creationTimestamp --no-headers | grep -q tools || return 1
    equals "$(k get configmaps -o name --sort-by=.metadata.name)" "$(k get configmaps -o name | sort)" || return 1
    prints kube-system k get services -A && prints pod/tools k get all && prints kube-root-ca.crt k get configmaps,serviceaccounts || return 1
    prints PodList k get --raw /api/v1/pods
}
who_am_i() {
    prints system:masters k auth whoami && equals "$(k auth can-i create pods)" yes && prints '*.*' k auth can-i --list
}
every_kind_is_described() {
    local kinds=(pods deployments replicasets services endpointslices endpoints nodes namespaces configmaps secrets
        serviceaccounts poddisruptionbudgets leases priorityclasses ipaddresses servicecidrs events replicationcontrollers jobs)
    k describe "$(IFS=,; echo "${kinds[*]}")" -A >"$scratch/described" 2>&1 || { because "$(grep -i -m 2 error "$scratch/described")"; return 1; }
    equals "$(grep -c '^Name:' "$scratch/described")" "$(k get "$(IFS=,; echo "${kinds[*]}")" -A -o name | grep -c .)" || return 1
    prints 'Successfully assigned' k describe pod tools && prints NewReplicaSet: k describe deployment client && prints Allocatable: k describe node
}
explains() {
    prints maxSurge k explain deployment.spec.strategy.rollingUpdate && prints imagePullSecrets k explain pod --recursive || return 1
    prints 'KIND:       Pod' k explain pod.spec.containers.image && prints '<string>' k explain pod.spec.containers.image || return 1
    refused 'field "none" does not exist' k explain pod.spec.none
}
lists_of_kinds() {
    prints deployments k api-resources && prints apps/v1 k api-versions && prints deploy k api-resources --api-group=apps -o wide || return 1
    prints poddisruptionbudgets k api-resources --namespaced=true --verbs=deletecollection -o name
}
waits() {
    k wait deployment/client --for=condition=Available --timeout=20s >/dev/null && k wait pod/tools --for=jsonpath='{.status.phase}'=Running --timeout=20s >/dev/null || return 1
    background "$KUBECTL" wait configmap/awaited --for=create --timeout=30s
    configs awaited && wait "$shadow" && background_says 'condition met' || { because "$(cat "$scratch/background")"; return 1; }
    background "$KUBECTL" wait configmap/awaited --for=delete --timeout=30s
    k delete configmap awaited >/dev/null && wait "$shadow" || { because "$(cat "$scratch/background")"; return 1; }
    refused 'timed out' k wait pod/tools --for=condition=Never --timeout=1s
}
events_of() {
    event_says pod/tools 'Container started' && event_says pod/tools 'Successfully assigned default/tools' || return 1
    prints Scheduled k events --types=Normal && prints Pulled k get events --field-selector=involvedObject.name=tools --sort-by=.lastTimestamp
}
no_metrics() { refused 'Metrics API not available' k top nodes && refused 'Metrics API not available' k top pods; }

output_points() {
    point 8.outputs every_form
    point 8.watch watches
    point 8.dry-run dry_runs
    point 8.selectors selections
    point 8.who who_am_i
    point 8.describe every_kind_is_described
    point 8.explain explains
    point 8.api-resources lists_of_kinds
    point 8.waits waits
    point 8.events events_of
    point 8.top no_metrics
    k delete configmap watched-before --wait=false >/dev/null 2>&1
}
