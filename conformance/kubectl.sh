#!/usr/bin/env bash
# Upstream's own tests of kubectl (test/cmd of Kubernetes), each function of them against an `ondol server` of its own:
# API, controllers and scheduler without a node, in a network namespace with nothing but loopback. Prints
# "PASS name" or "FAIL name: the last words"; the ledger beside says what passed before, and what is not tried ("out").
#
#   ONDOL=path/to/ondol KUBECTL=path/to/kubectl KUBERNETES=unpacked/module/k8s.io/kubernetes \
#       LOGS=folder conformance/kubectl.sh [FUNCTION...]
set -u
: "${ONDOL:?set ONDOL to the ondol binary}" "${KUBECTL:?set KUBECTL to a kubectl}"
: "${KUBERNETES:?set KUBERNETES to the folder of the module k8s.io/kubernetes}"
export LOGS=${LOGS:-$(mktemp -d /tmp/kubectl-suite-XXXXXX)}
# Of one function, its server's start included. Upstream's longest one waits for about two minutes.
deadline_seconds=400
port=6443

# Every function that upstream's script runs, in its order, without those that the ledger leaves out.
functions() {
    local out
    out=$(sed -n 's/^out \([^ :]*\).*/\1/p' "${0%.sh}.ledger" 2>/dev/null)
    sed -n 's/^ *record_command \(run_[A-Za-z_]*\).*/\1/p' "$KUBERNETES/test/cmd/legacy-script.sh" |
        grep -vxF "${out:-none}"
}

# What upstream's scripts expect around them: their own tree, which they also write into, and a kubectl on the PATH.
make_tree() {
    local part
    for part in test/cmd hack/lib hack/testdata test/fixtures test/e2e/testing-manifests; do
        mkdir -p "$1/$part"
        cp -r --no-preserve=mode "$KUBERNETES/$part/." "$1/$part"
    done
    find "$1/test/fixtures/pkg/kubectl/plugins" -type f -exec chmod +x {} +
    mkdir -p "$1/_output/bin" "$1/third_party/forked/shell2junit"
    cp "$KUBECTL" "$1/_output/bin/kubectl"
    # The module has no shell2junit; this is all that is used of it.
    cat >"$1/third_party/forked/shell2junit/sh2ju.sh" <<'END'
juLog() { while [[ $1 == -* ]]; do shift; done; ( set -o errexit -o nounset; "$@" ); }
END
}

# The function $1 alone; to be called in namespaces of its own.
one() {
    local name=$1
    # Instances of a machine know of each other by what lies in /run.
    ip link set lo up && mount -t tmpfs none /run || return 1
    scratch=$(mktemp -d /tmp/kubectl-one-XXXXXX)
    make_tree "$scratch/tree"
    export HOME="$scratch/home" KUBECONFIG="$scratch/admin" ONDOL_INSTANCE=suite
    mkdir -p "$HOME/.kube"
    # Upstream's controllers give no blocks of addresses to nodes in these tests; here there is one block, for the
    # first node, so that those which the tests make get none.
    "$ONDOL" --data-dir "$scratch/data" server --api-port $port --service-cidr 10.0.0.0/24 --pod-cidr 10.1.0.0/24 \
        >"$scratch/server" 2>&1 &
    server=$!
    trap 'kill $server 2>/dev/null; wait $server; rm -rf "$scratch"' EXIT
    for _ in $(seq 200); do
        "$KUBECTL" get --raw /readyz >/dev/null 2>&1 && break
        sleep 0.1
    done
    prepare "$scratch" || { tail -n 20 "$scratch/server"; return 1; }
    export -f run_one
    (cd "$scratch/tree" && KUBE_TEMP="$scratch/temp" NAME=$name timeout $deadline_seconds bash -c run_one)
}

# A credential that needs no further program, and the one node that upstream makes where no kubelet is.
prepare() {
    "$ONDOL" --data-dir "$1/data" credential >"$1/credential" || return 1
    jq -r .status.clientCertificateData "$1/credential" >"$1/cert"
    jq -r .status.clientKeyData "$1/credential" >"$1/key"
    unset KUBECONFIG
    # Where upstream's server leaves its certificate; any one does.
    export TMPDIR="$1"
    cp "$1/cert" "$1/apiserver.crt"
    "$KUBECTL" config set-credentials test-admin --client-certificate="$1/cert" --client-key="$1/key" --embed-certs
    "$KUBECTL" config set-cluster local --insecure-skip-tls-verify --server "https://127.0.0.1:$port"
    "$KUBECTL" config set-context test --user test-admin --cluster local
    "$KUBECTL" config use-context test
    "$KUBECTL" create -f - <<'END'
{"kind": "Namespace", "apiVersion": "v1", "metadata": {"name": "before"}}
---
{"kind": "Node", "apiVersion": "v1", "metadata": {"name": "127.0.0.1", "annotations": {"save-managers": "true"}},
 "status": {"capacity": {"memory": "1Gi"}}}
END
    # Some functions rely on a namespace that an earlier one has left as the current one.
    "$KUBECTL" config set-context test --namespace before
}

# Upstream's way to choose: its variables are set in the middle of runTests, which then runs what WHAT names.
run_one() {
    export KUBE_ROOT=$PWD TERM=dumb ALLOW_SKEW=true SECURE_API_PORT=6443 API_HOST=127.0.0.1 CONTEXT=test
    export KUBE_JUNIT_REPORT_DIR=$KUBE_TEMP
    mkdir -p "$KUBE_TEMP"
    source hack/lib/util.sh
    source hack/lib/logging.sh
    source hack/lib/test.sh
    export THIS_PLATFORM_BIN="$KUBE_ROOT/_output/bin"
    source test/cmd/legacy-script.sh
    # Upstream's own look for it fails now and then, when grep has seen enough before sed has said all.
    export SED=sed
    # There are no tokens of a file here: the context's certificate says who asks, also where curl does.
    curl() {
        local arguments=() argument
        for argument in "$@"; do
            [[ $argument == "Authorization: Bearer admin-token" ]] && argument="X-Nobody: here"
            arguments+=("$argument")
        done
        command curl --cert "$TMPDIR/cert" --key "$TMPDIR/key" "${arguments[@]}"
    }
    if [ "$NAME" = run_nodes_tests ]; then
        # Upstream comes to it so late that the controller has already given up the node.
        kubectl wait --for=jsonpath='{.status.conditions[0].type}' node/127.0.0.1 --timeout=120s
    fi
    record_command() {
        set +o errexit
        juLog "$NAME"
        [[ $? -eq 0 ]] || foundError="$NAME"
        set -o errexit
    }
    export SUPPORTED_RESOURCES=("*")
    WHAT=chosen runTests
}

if [ "${1:-}" = --one ]; then
    one "$2" >"$LOGS/$2.log" 2>&1
    exit
fi
if [ "${1:-}" = --tell ]; then
    if unshare --net --mount --propagation private "$0" --one "$2" </dev/null; then echo "PASS $2"; else
        words=$(grep -aE 'FAIL|^error|^Error|unexpected|!!! ' "$LOGS/$2.log" | grep -av 'FAILED TESTS\|"kubernetes" already exists' | tail -n 2 | tr '\n' ' ')
        echo "FAIL $2: ${words:0:240}"
    fi
    exit
fi
mkdir -p "$LOGS"
echo "logs: $LOGS" >&2
if [ $# -gt 0 ]; then printf '%s\n' "$@"; else functions; fi | xargs -P "${JOBS:-2}" -n 1 "$0" --tell
