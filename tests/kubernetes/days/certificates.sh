# Every certificate is renewed, and the daemons' tokens are revoked, before new pods get new ones.

renew() {
    "$here/certificates"
    # All that have one are started anew, as the documents of Kubernetes say.
    "$here/control-plane" stop apiserver controller-manager scheduler
    "$here/control-plane" start apiserver controller-manager scheduler
}
has_token() {
    kubectl -n culvert get secrets -o name | grep token
}
revoke() {
    local secrets
    # From Kubernetes 1.24 on tokens are those of a pod, and end with it.
    secrets=$(kubectl -n culvert get secrets -o name | grep token || true)
    # shellcheck disable=SC2086 # one argument each
    if [ -n "$secrets" ]; then
        kubectl -n culvert delete $secrets >/dev/null
        await 120 "new token" has_token
    fi
    sleep 20
    kubectl -n culvert rollout restart daemonset culvert >/dev/null
    rolled_out
}
loss "certificates renewed" 1 3 renew
policies_hold
loss "tokens of the daemons revoked, and daemons started anew" 1 3 revoke
policies_hold
