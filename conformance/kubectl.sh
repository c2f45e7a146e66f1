#!/usr/bin/env bash
# kubectl's verbs against `ondol up`, one short case each. Prints "PASS name" or "FAIL name: reason"; the ledger beside
# says which passed before. The cases follow what kubectl's documentation promises; the objects need no running pods
# unless a case says so.
#
#   ONDOL=path/to/ondol KUBECTL=path/to/kubectl conformance/kubectl.sh
set -u
: "${ONDOL:?set ONDOL to the ondol binary}" "${KUBECTL:?set KUBECTL to a kubectl}"
if [ "${SUITE_INSIDE:-}" != yes ]; then
    SUITE_INSIDE=yes exec unshare --net --mount --propagation private "$0" "$@"
fi
ip link set lo up
instance="ks$$"
scratch=$(mktemp -d /tmp/kubectl-suite-XXXXXX)
export KUBECONFIG="$scratch/kubeconfig"
clean_up() { "$ONDOL" --instance "$instance" down --wipe --yes >/dev/null 2>&1; rm -rf "$scratch"; }
trap clean_up EXIT
timeout 120 "$ONDOL" --instance "$instance" up >"$scratch/up" 2>&1 || { tail -n 5 "$scratch/up" >&2; exit 1; }

failed=0
k() { timeout 60 "$KUBECTL" "$@"; }
# case NAME WANTED COMMAND...: succeeds if the command does and prints WANTED (empty: anything).
case_() {
    local name=$1 wanted=$2 out; shift 2
    if out=$("$@" 2>&1) && [[ "$out" == *"$wanted"* ]]; then echo "PASS $name"; else
        echo "FAIL $name: $(printf %s "$out" | head -c 200 | tr '\n' ' ')"; failed=1
    fi
}
# refused NAME WANTED COMMAND...: succeeds if the command fails and prints WANTED.
refused() {
    local name=$1 wanted=$2 out; shift 2
    if out=$("$@" 2>&1); then echo "FAIL $name: it was taken"; failed=1
    elif [[ "$out" == *"$wanted"* ]]; then echo "PASS $name"; else
        echo "FAIL $name: $(printf %s "$out" | head -c 200 | tr '\n' ' ')"; failed=1
    fi
}

case_ version "v1.37" k version
case_ cluster-info "control plane" k cluster-info
case_ api-versions "apps/v1" k api-versions
case_ api-resources "deployments" k api-resources --namespaced=true -o wide
case_ explain "FIELD" k explain pod.spec.containers.image
case_ explain-recursive "maxSurge" k explain deployment --recursive
case_ create-namespace "created" k create namespace suite
case_ create-configmap "created" k create configmap settings --from-literal=a=1 -n suite
case_ create-secret "created" k create secret generic hidden --from-literal=a=1 -n suite
case_ create-service-account "created" k create serviceaccount robot -n suite
case_ create-token "." k create token robot -n suite
case_ create-deployment "created" k create deployment web --image=ondol.local/echo:v1 --replicas=0 -n suite
case_ create-service "created" k create service clusterip web --tcp=80:8080 -n suite
case_ create-priority-class "created" k create priorityclass suite-high --value=1000
case_ create-budget "created" k create poddisruptionbudget web --selector=app=web --min-available=1 -n suite
refused create-again "already exists" k create configmap settings --from-literal=a=1 -n suite
case_ get "settings" k get configmap settings -n suite
case_ get-yaml "kind: ConfigMap" k get configmap settings -n suite -o yaml
case_ get-json '"kind": "ConfigMap"' k get configmap settings -n suite -o json
case_ get-jsonpath "1" k get configmap settings -n suite -o 'jsonpath={.data.a}'
case_ get-go-template "1" k get configmap settings -n suite -o 'go-template={{.data.a}}'
case_ get-columns "settings" k get configmap -n suite -o 'custom-columns=NAME:.metadata.name'
case_ get-name "configmap/settings" k get configmap -n suite -o name
case_ get-wide "web" k get deployment -n suite -o wide
case_ get-all "deployment.apps/web" k get all -n suite
case_ get-sorted "settings" k get configmaps -A --sort-by=.metadata.name
case_ get-field-selector "settings" k get configmaps -A --field-selector=metadata.name=settings
case_ get-raw '"major"' k get --raw /version
refused get-missing "not found" k get configmap nothing -n suite
refused get-unknown "the server doesn't have a resource type" k get warmth
case_ describe "Name:" k describe configmap settings -n suite
case_ describe-node "Capacity" k describe node
case_ label "labeled" k label configmap settings season=winter -n suite
case_ get-label-selector "settings" k get configmaps -n suite -l season=winter
refused label-conflict "overwrite" k label configmap settings season=summer -n suite
case_ label-remove "unlabeled" k label configmap settings season- -n suite
case_ annotate "annotated" k annotate configmap settings note=warm -n suite
case_ patch-merge "patched" k patch configmap settings -n suite --type=merge -p '{"data":{"b":"2"}}'
case_ patch-json "patched" k patch configmap settings -n suite --type=json -p '[{"op":"remove","path":"/data/b"}]'
case_ patch-strategic "patched" k patch deployment web -n suite -p '{"spec":{"template":{"spec":{"containers":[{"name":"echo","env":[{"name":"A","value":"1"}]}]}}}}'
case_ scale "scaled" k scale deployment web -n suite --replicas=1
case_ set-image "image updated" k set image deployment/web echo=ondol.local/echo:v2 -n suite
case_ set-env "env updated" k set env deployment/web B=2 -n suite
case_ set-resources "resource requirements updated" k set resources deployment/web --limits=memory=64Mi -n suite
case_ rollout-status "successfully rolled out" k rollout status deployment/web -n suite --timeout=60s
case_ rollout-history "REVISION" k rollout history deployment/web -n suite
case_ rollout-undo "rolled back" k rollout undo deployment/web -n suite
case_ autoscale-is-told "" k autoscale deployment web -n suite --min=1 --max=2 --cpu=80%
printf 'apiVersion: v1\nkind: ConfigMap\nmetadata: {name: applied, namespace: suite, labels: {set: one}}\ndata: {a: "1"}\n' >"$scratch/applied.yaml"
case_ apply "created" k apply -f "$scratch/applied.yaml"
case_ apply-again "unchanged" k apply -f "$scratch/applied.yaml"
sed 's/"1"/"2"/' "$scratch/applied.yaml" >"$scratch/changed.yaml"
refused diff '+  a: "2"' k diff -f "$scratch/changed.yaml"
case_ apply-changed "configured" k apply -f "$scratch/changed.yaml"
case_ apply-view "a: \"2\"" k apply view-last-applied configmap/applied -n suite
case_ replace "replaced" k replace -f "$scratch/applied.yaml"
case_ replace-force "replaced" k replace --force -f "$scratch/applied.yaml"
case_ dry-run "server dry run" k create configmap dry -n suite --from-literal=a=1 --dry-run=server
case_ wait "condition met" k wait deployment/web -n suite --for=condition=Available --timeout=60s
case_ events "" k events -n suite
case_ auth-can-i "yes" k auth can-i create pods
case_ auth-whoami "Username" k auth whoami
case_ cordon "cordoned" k cordon "$(k get nodes -o 'jsonpath={.items[0].metadata.name}')"
case_ uncordon "uncordoned" k uncordon "$(k get nodes -o 'jsonpath={.items[0].metadata.name}')"
case_ taint "tainted" k taint node --all warm=yes:PreferNoSchedule
case_ expose "exposed" k expose deployment web --name=exposed --port=80 -n suite
case_ delete "deleted" k delete configmap settings -n suite
case_ delete-orphan "deleted" k delete deployment web -n suite --cascade=orphan
case_ delete-namespace "deleted" k delete namespace suite --timeout=60s
exit $failed
