#!/bin/bash
# Does HAProxy answer? If not, restart it once and look again: only what a restart does not mend is worth a failover.
answers() { curl -fsS -o /dev/null --max-time "$1" http://127.0.0.1:8889/health 2>/dev/null; }

answers 0.8 && exit 0
logger --tag check-haproxy --id=$$ "HAProxy does not answer: restarting it"
systemctl kill --kill-whom=all --signal=SIGKILL haproxy.service 2>/dev/null
timeout 3 systemctl restart haproxy.service 2>/dev/null
for _ in 1 2 3 4 5; do
    answers 0.3 && exit 0
    sleep 0.1
done
logger --tag check-haproxy --id=$$ "HAProxy does not answer after a restart either"
exit 1
