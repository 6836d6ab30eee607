# Pods that are not of a Deployment: a static one, one in the network of its node, and one whose
# init container is the first that needs the network.

pod() {
    cat <<YAML
apiVersion: v1
kind: Pod
metadata: {name: $1, namespace: days}
spec:
  $2
  terminationGracePeriodSeconds: 0
  containers:
    - name: agnhost
      image: k8s.gcr.io/e2e-test-images/agnhost:2.21
      imagePullPolicy: IfNotPresent
      args: [netexec, --http-port=8088, --udp-port=8089]
YAML
}
ready() {
    kubectl -n days wait --for=condition=Ready "pod/$1" --timeout=60s >/dev/null
}
address_of() {
    kubectl -n days get pod "$1" -o 'jsonpath={.status.podIP}'
}

has_no_pod() {
    ! kubectl -n days get pod "$1" >/dev/null 2>&1
}

# The kubelet reads the file, and tells the API server of it.
manifest=$state/node3/etc/kubernetes/manifests/static.yaml
pod static "" >"$manifest.new"
mv "$manifest.new" "$manifest"
await 60 "static pod" kubectl -n days get pod static-node3
ready static-node3
static=$(address_of static-node3)
await 15 "answer of the static pod" says static-node3 "$static" 8088 in_pod 1

pod on-the-node "nodeName: node2
  hostNetwork: true" | kubectl apply -f - >/dev/null
ready on-the-node
await 15 "answer of the node's network" says node2 "$(node_address 2)" 8088 in_pod 1
await 15 "answer in the node's network" says static-node3 "$static" 8088 on 2

# One attempt, as soon as the container runs.
pod first "restartPolicy: Never
  nodeName: node1
  initContainers:
    - name: asks
      image: k8s.gcr.io/e2e-test-images/agnhost:2.21
      imagePullPolicy: IfNotPresent
      args: [connect, --timeout=2s, '$(with_port "$static" 8088)']" | kubectl apply -f - >/dev/null
ready first
await 15 "answer of the pod with an init container" says first "$(address_of first)" 8088 in_pod 3

rm "$manifest"
kubectl -n days delete pod first on-the-node --wait >/dev/null
await 60 "end of the static pod" has_no_pod static-node3
echo "| static pod, host network, init container | all reached | | |"
