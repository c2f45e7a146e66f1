# 11: what is not there yet gets a clear answer, never silence. Sourced by tests/first-light.sh.

# The kinds that are taken though nobody acts on them, and what to use instead.
start_later() {
    k apply -f "$here/first-light/later.yaml" >/dev/null || return 1
    k create job later --image=ondol.local/echo:v1 >/dev/null && k create cronjob later --image=ondol.local/echo:v1 --schedule='1 * * * *' >/dev/null || return 1
    k autoscale deployment client --name=later --max=3 >/dev/null && k create ingress later --rule='a.example/*=client:80' >/dev/null
}
stored_says_so() {
    local kind out; for kind in StatefulSet DaemonSet Job CronJob HorizontalPodAutoscaler Ingress PersistentVolumeClaim PersistentVolume; do
        event_says "$kind/later" "Ondol does not serve the kind $kind yet" || return 1
        out=$(ondol why "$kind/later" 2>&1); has "$out" "Ondol does not serve the kind $kind yet" && has "$out" '→' || return 1
    done
}
# Nobody is to believe that these hold.
restricting_is_refused() {
    local kind file="$scratch/refused.yaml"
    for kind in networking.k8s.io/v1/NetworkPolicy v1/ResourceQuota v1/LimitRange rbac.authorization.k8s.io/v1/Role \
        rbac.authorization.k8s.io/v1/ClusterRole apiextensions.k8s.io/v1/CustomResourceDefinition \
        admissionregistration.k8s.io/v1/ValidatingWebhookConfiguration admissionregistration.k8s.io/v1/ValidatingAdmissionPolicy; do
        printf '{"apiVersion":"%s","kind":"%s","metadata":{"name":"later"}}' "${kind%/*}" "${kind##*/}" >"$file"
        refused 'does not enforce this kind yet' k create --validate=false -f "$file" || return 1
        refused 'this version of Ondol takes none' ondol why "${kind##*/}/later" || return 1
    done
    refused 'does not enforce this kind yet' k create role later --verb=get --resource=pods \
        && refused 'does not enforce this kind yet' k create rolebinding later --role=later --user=somebody \
        && refused 'does not enforce this kind yet' k create quota later --hard=pods=1
}
server_side_apply_is_refused() {
    refused 'server-side apply is not served by this version of Ondol yet' k apply --server-side -f "$here/first-light/later.yaml"
}
# A kind that nobody has, as upstream's server answers with kubectl.
unknown_kind_is_told() {
    printf 'apiVersion: example.com/v1\nkind: Warm\nmetadata: {name: w}\n' >"$scratch/unknown.yaml"
    refused 'no matches for kind "Warm" in version "example.com/v1"' k apply -f "$scratch/unknown.yaml"
}
unsupported_field_is_told() {
    event_says pod/later 'this node does not support spec.volumes[0].persistentVolumeClaim' || return 1
    prints 'remove the field' ondol why pod/later && refused 'does not serve pods/ephemeralcontainers yet' k debug "$(any_pod client)" --image=ondol.local/echo:v1
}
point_11() {
    point 11.start start_later
    point 11.stored stored_says_so
    point 11.refused restricting_is_refused
    point 11.server-side server_side_apply_is_refused
    point 11.unknown unknown_kind_is_told
    point 11.field unsupported_field_is_told
    k delete -f "$here/first-light/later.yaml" --wait=false >/dev/null 2>&1
    k delete job,cronjob,hpa,ingress later --wait=false >/dev/null 2>&1
}
