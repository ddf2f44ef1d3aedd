#!/bin/bash
# Before mariadbd starts: may this node form a cluster by itself, or must it find one?
#
# Only the node that left last in a clean full stop may (safe_to_bootstrap in grastate.dat), and only if no other node
# answers. After a power cut of all nodes nothing is needed: each has its last view (gvwstate.dat), and Galera forms
# the cluster again once all of that view are back.
set -u
# shellcheck source=/dev/null
. /etc/mycat-ha/galera.env # PEERS
data=${MYCAT_HA_DATA:-/var/lib/mysql}

systemctl unset-environment _WSREP_NEW_CLUSTER
[[ -e $data/gvwstate.dat ]] && exit 0
grep -qx 'safe_to_bootstrap: 1' "$data/grastate.dat" 2>/dev/null || exit 0
for peer in $PEERS; do
    if timeout 1 bash -c "</dev/tcp/$peer/4567" 2>/dev/null; then
        echo "node $peer is up: joining it"
        exit 0
    fi
done
echo "this node stopped last and no other is up: forming the cluster"
systemctl set-environment _WSREP_NEW_CLUSTER=--wsrep-new-cluster
