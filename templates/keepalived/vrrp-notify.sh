#!/bin/bash
# Called by keepalived on every change of state. Keepalived neither waits for it nor looks at its exit status, and
# kills it with itself: so it only hands the claim to systemd and leaves a line in the journal.
case $1 in
master) systemctl --no-block restart claim-vip.service ;; # the latest state wins over a claim that still runs
master-again) systemctl --no-block start claim-vip.service ;;
esac
exec logger --tag vrrp-notify --id=$$ "VRRP state: $1"
