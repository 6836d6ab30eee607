# Another image, node by node, and back. With a surge the new daemon waits beside the old one.

change() {
    "$here/install" "image=$1" | kubectl apply -f - >/dev/null
    rolled_out
}
loss "another image" 1 3 change "$OTHER_IMAGE"
loss "and back" 1 3 change "$IMAGE"
