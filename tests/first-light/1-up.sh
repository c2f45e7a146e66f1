# 1: `ondol up`, its context, its own words. Sourced by tests/first-light.sh.

# With the mask of a hardened shell, which is to make no difference to pods.
up() { ( umask 077; ondol up ) >"$scratch/up" 2>&1 || because "$(tail -n 3 "$scratch/up" | tr '\n' ' ')"; }
up_says_steps() { [ "$(wc -l <"$scratch/up")" -ge 2 ] || because "it showed no steps"; }
node_is_ready() { [ "$(k get nodes -o 'jsonpath={.items[*].status.conditions[?(@.type=="Ready")].status}')" = True ]; }
context_is_current() {
    local current; current=$(k config current-context)
    case "$current" in ondol*) ;; *) because "the current context is \"$current\""; return 1;; esac
    has "$(k config get-contexts -o name)" untouched
}
# Where kubectl would have written it.
right_file() {
    [ ! -e "$scratch/absent" ] && grep -q "current-context: ondol" "$scratch/kubeconfig" || because "$(grep -l ondol "$scratch"/*)"
}
second_up() { prints "already runs" ondol up; }
status_json() {
    local out; out=$(ondol status -o json) || { because "$out"; return 1; }
    for word in version pid node pods; do has "$out" "$word" || return 1; done
}
status_is_true() {
    local out; out=$(ondol status -o json)
    for word in "\"pid\": $(server_pid)" "\"version\": \"$("$ONDOL" version | cut -d' ' -f2)\"" '"kubernetes": "v1.37' '"ready": true' \
        "\"name\": \"$(node_name)\"" "\"address\": \"$(node_address)\"" '"memoryBytes": ' '"total": 0' \
        ":$(k config view --minify -o 'jsonpath={.clusters[0].cluster.server}' | grep -oE '[0-9]+$')\""; do
        has "$out" "$word" || return 1
    done
    prints "$(node_name)" ondol status && prints MiB ondol status || return 1
    # Which instance is meant may also stand in the environment.
    prints "$instance" env ONDOL_INSTANCE="$instance" "$ONDOL" status
}
own_log() {
    equals "$(ondol logs --tail=2 | grep -c .)" 2 && prints INFO ondol logs || return 1
    background "$ONDOL" --instance "$instance" logs -f
    within 10 background_says INFO; local done=$?
    end_background; return $done
}
completes() {
    # shellcheck disable=SC2016
    prints pull bash -c '. <("$0" completion bash); COMP_WORDS=(ondol image pu) COMP_CWORD=2; _ondol ondol pu image; echo "${COMPREPLY[@]}"' "$ONDOL" || return 1
    local shell; for shell in zsh fish; do prints image "$ONDOL" completion "$shell" || return 1; done
    prints 'ondol up' "$ONDOL" --help && prints '--wipe' "$ONDOL" down --help
}

# The shipped unit says what systemd understands; where there is no systemd, there is nobody to ask.
unit_is_valid() {
    [ -n "$(command -v systemd-analyze)" ] || return 0
    sed "s|/usr/local/bin/ondol|$ONDOL|" "$here/../packaging/ondol.service" >"$scratch/ondol.service"
    local out; out=$(systemd-analyze verify --man=no "$scratch/ondol.service" 2>&1) && [ -z "$out" ] || because "$out"
}

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
    point 1.kubeconfigs right_file
    point 1.second-up second_up
    point 1.status status_json
    point 1.status-true status_is_true
    point 1.logs own_log
    point 1.completion completes
    point 1.unit unit_is_valid
    point 1.version prints 'Server Version: v1.37' k version
}
