#!/bin/sh
# Plays each capture of this directory to node1 and compares the verdicts with its .expect file.
set -eu
cd "$(dirname "$0")"
for capture in *.pcap; do
    for offload in on off; do
        "${CULVERT:-culvert}" replay "$capture" --table table.toml --node node1 \
            --expect "${capture%.pcap}.expect" --offload "$offload"
    done
done
