# Every certificate is renewed, and the daemons' tokens are revoked, before new pods get new ones.

renew() {
    "$here/certificates"
    "$here/control-plane" stop apiserver
    "$here/control-plane" start apiserver
}
revoke() {
    local secrets
    # From Kubernetes 1.24 on tokens are those of a pod, and end with it.
    secrets=$(kubectl -n culvert get secrets -o name | grep token || true)
    # shellcheck disable=SC2086 # one argument each
    [ -z "$secrets" ] || kubectl -n culvert delete $secrets >/dev/null
    sleep 20
    kubectl -n culvert rollout restart daemonset culvert >/dev/null
    rolled_out
}
loss "certificates renewed" 1 3 renew
policies_hold
loss "tokens of the daemons revoked, and daemons started anew" 1 3 revoke
policies_hold
