# 5: rollouts. Sourced by tests/first-light.sh.

backend_url() { echo "http://$(value service/backend '{.spec.clusterIP}'):3306/"; }
rolls_without_failure() {
    start_load "$(backend_url)"
    k set image deployment/backend echo=ondol.local/echo:v2 >/dev/null && k rollout status deployment/backend --timeout=60s >/dev/null
    local done=$?
    stop_load && [ $done -eq 0 ]
}
new_version_answers() { has "$(fetch "$(backend_url)")" v2; }
history_is_kept() { [ "$(k rollout history deployment/backend | grep -cE '^[0-9]')" -ge 2 ] || because "$(k rollout history deployment/backend | tr '\n' ' ')"; }
revision_is_shown() {
    local newest; newest=$(k rollout history deployment/backend | grep -oE '^[0-9]+' | tail -n 1)
    prints ondol.local/echo:v2 k rollout history deployment/backend --revision="$newest"
}
# Of three, the sets want one more and have none less available while they roll: a quarter, rounded up and down.
bounds_are_kept() {
    background "$KUBECTL" get replicasets -l app=backend --watch \
        -o 'jsonpath={.metadata.name} {.spec.replicas} {.status.availableReplicas}{"\n"}'
    # The list comes first, set by set; from then on each line is a change.
    within 10 background_says ' 3 3$' || { end_background; return 1; }
    local sets; sets=$(k get replicasets -l app=backend --no-headers | grep -c .)
    restart; local done=$?
    end_background
    [ $done -eq 0 ] && [ "$(grep -c . "$scratch/background")" -ge $((sets + 4)) ] || { because "nothing was seen"; return 1; }
    awk -v sets="$sets" '{ wanted[$1] = $2; available[$1] = $3 }
        NR >= sets { w = a = 0; for (set in wanted) { w += wanted[set]; a += available[set] }; if (w > 4 || a < 3) bad = 1 }
        END { exit bad }' "$scratch/background" || because "$(tr '\n' ';' <"$scratch/background")"
}
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
# What is stuck, since when, what serves meanwhile, and what to do, in a few lines.
why_says() {
    local out word; out=$(ondol why deployment/backend 2>&1) || { because "$out"; return 1; }
    for word in no-such 'stands still for ' 'serve on' '→' 'kubectl rollout undo deployment/backend'; do
        has "$out" "$word" || return 1
    done
    [ "$(wc -l <<<"$out")" -le 12 ] || because "$out"
}
undo_heals() { k rollout undo deployment/backend >/dev/null && k rollout status deployment/backend --timeout=60s >/dev/null; }
pause_and_resume() {
    k rollout pause deployment/backend >/dev/null && k set env deployment/backend PAUSED=1 >/dev/null || return 1
    # It has been seen, and nothing moves.
    within 20 is_observed deployment/backend && value_is deployment/backend '{.status.updatedReplicas}' '' || return 1
    prints paused ondol why deployment/backend || return 1
    k rollout resume deployment/backend >/dev/null && k rollout status deployment/backend --timeout=60s >/dev/null
}
is_observed() { equals "$(value "$1" '{.status.observedGeneration}')" "$(value "$1" '{.metadata.generation}')"; }
restart() { k rollout restart deployment/backend >/dev/null && k rollout status deployment/backend --timeout=60s >/dev/null; }
undo_to_first() {
    local first; first=$(k rollout history deployment/backend | grep -oE '^[0-9]+' | head -n 1)
    k rollout undo deployment/backend --to-revision="$first" >/dev/null && k rollout status deployment/backend --timeout=60s >/dev/null
}
point_5() {
    point 5.rolls rolls_without_failure
    point 5.new-version within 10 new_version_answers
    point 5.history history_is_kept
    point 5.revision revision_is_shown
    point 5.bounds bounds_are_kept
    point 5.bad-image bad_image_stands_still
    point 5.why why_says
    point 5.undo undo_heals
    point 5.pause pause_and_resume
    point 5.restart restart
    point 5.undo-to-revision undo_to_first
    # The first revision listened elsewhere; what follows asks the Service again.
    k set env deployment/backend PORT=6000 >/dev/null && k rollout status deployment/backend --timeout=60s >/dev/null
}
