# Nodes send one another nothing in plain, and policies hold.

change() {
    "$here/install" "$1" | kubectl apply -f - >/dev/null
    rolled_out
}
loss "\`sealed\`: prefer → require" 1 3 change sealed=require
await 60 "pods that talk" all_talk
policies_hold
loss "\`sealed\`: require → prefer" 1 3 change sealed=prefer
