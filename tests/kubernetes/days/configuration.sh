# A change of the configuration is rolled out like a new image. These are changes of what is on the
# wire.

change() {
    "$here/install" "$1" | kubectl apply -f - >/dev/null
    rolled_out
}
loss "\`sealed\`: prefer → off" 1 3 change sealed=off
loss "\`sealed\`: off → prefer" 1 3 change sealed=prefer
