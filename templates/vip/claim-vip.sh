#!/bin/bash
# Make the EC2 API agree with VRRP: the virtual IP belongs to the interface of the machine that is master.
#
#   claim-vip claim       assign the address to this machine's interface, until that is verified or VRRP says otherwise
#   claim-vip reconcile   keep credentials fresh; on the master, claim the address if it has drifted away
#   claim-vip probe       prove, without moving anything, that a claim would work: metadata, API, permission
#
# AssignPrivateIpAddresses with AllowReassignment is one idempotent, atomic call. Nothing is ever unassigned: while no
# master claims the address it stays where it was. What the claim needs is on the machine already: bash and curl, the
# credentials of the last reconcile if the metadata service fails, and the API's addresses if name resolution does.
set -uo pipefail

# shellcheck source=/dev/null
. "${MYCAT_HA_VIP_ENV:-/etc/mycat-ha/vip.env}" # VIP, ENI, SUBNET, REGION, ENDPOINT, ROLE, DEVICE, RANK
RUN=${MYCAT_HA_RUN:-/run/mycat-ha}
METADATA=${MYCAT_HA_METADATA:-http://169.254.169.254}
KEEPALIVED_PID=${MYCAT_HA_KEEPALIVED_PID:-/run/keepalived.pid}

umask 077
mkdir -p "$RUN"
started=${EPOCHREALTIME/[.,]/}

elapsed() { echo $(((${EPOCHREALTIME/[.,]/} - started) / 1000)); }
say() { printf '%s (%s ms)\n' "$*" "$(elapsed)"; }

# Keepalived adds the address before it reports MASTER and removes it before it reports anything else, so the kernel
# knows best. A keepalived that was killed leaves the address behind: it has to be alive as well.
is_master() {
    [[ -r $KEEPALIVED_PID ]] && kill -0 "$(<"$KEEPALIVED_PID")" 2>/dev/null &&
        [[ -n $(ip -4 -o address show dev "$DEVICE" to "$VIP/32" 2>/dev/null) ]]
}

json_field() { [[ $2 =~ \"$1\"[[:space:]]*:[[:space:]]*\"([^\"]+)\" ]] && printf '%s' "${BASH_REMATCH[1]}"; }

# curl takes everything from a file descriptor: no token and no key in a command line.
metadata() {
    local token
    token=$(curl -fsS --connect-timeout 0.5 --max-time 1 -X PUT -H 'X-aws-ec2-metadata-token-ttl-seconds: 300' \
        "$METADATA/latest/api/token") || return 1
    curl -fsS --connect-timeout 0.5 --max-time 1 --config - <<END
url = "$METADATA/latest/meta-data/$1"
header = "X-aws-ec2-metadata-token: $token"
END
}

# Sets KEY, SECRET, TOKEN. Fresh ones with "fetch", else the kept ones while they last ten more minutes, and if the
# metadata service does not answer, as long as they are valid at all.
credentials() {
    local kept=$RUN/credentials now document expires
    printf -v now '%(%s)T' -1
    KEY='' SECRET='' TOKEN='' EXPIRES=0
    # shellcheck source=/dev/null
    [[ -r $kept ]] && . "$kept"
    [[ ${1-} != fetch && -n $KEY ]] && ((EXPIRES > now + 600)) && return 0
    if document=$(metadata "iam/security-credentials/$ROLE") && [[ $(json_field Code "$document") == Success ]]; then
        KEY=$(json_field AccessKeyId "$document")
        SECRET=$(json_field SecretAccessKey "$document")
        TOKEN=$(json_field Token "$document")
        expires=$(json_field Expiration "$document")
        EXPIRES=$(date -d "$expires" +%s)
        printf 'KEY=%q\nSECRET=%q\nTOKEN=%q\nEXPIRES=%q\n' "$KEY" "$SECRET" "$TOKEN" "$EXPIRES" >"$kept.$$" &&
            mv -f "$kept.$$" "$kept"
        return 0
    fi
    [[ -n $KEY ]] && ((EXPIRES > now)) && { say "metadata service does not answer: using the credentials kept"; return 0; }
    FAILURE="no credentials: the metadata service does not give those of role $ROLE"
    return 1
}

# The API's host name, resolved while all was well.
host=${ENDPOINT#*://} host=${host%%/*}
port=80
[[ $ENDPOINT == https:* ]] && port=443
[[ $host == *:* ]] && port=${host##*:} host=${host%:*}
resolve() {
    local found
    [[ $host =~ ^[0-9.]+$ ]] && return 0
    found=$(timeout 3 getent ahostsv4 "$host" | awk '{print $1}' | sort -u | paste -sd ,)
    [[ -n $found ]] && printf '%s' "$found" >"$RUN/endpoint.$$" && mv -f "$RUN/endpoint.$$" "$RUN/endpoint"
}

# ec2 SECONDS PARAMETERS: sets BODY; on failure FAILURE (AWS's code first) and returns 1.
ec2() {
    local status pinned=() answer
    if [[ -r $RUN/endpoint ]] && ! [[ $host =~ ^[0-9.]+$ ]]; then
        pinned=(--resolve "$host:$port:$(<"$RUN/endpoint")")
    fi
    answer=$(curl -sS --connect-timeout 1 --max-time "$1" --write-out '\n%{http_code}' "${pinned[@]}" --config - 2>&1 <<END
url = "$ENDPOINT/"
aws-sigv4 = "aws:amz:$REGION:ec2"
user = "$KEY:$SECRET"
header = "X-Amz-Security-Token: $TOKEN"
data = "Version=2016-11-15&$2"
END
    )
    status=${answer##*$'\n'}
    BODY=${answer%$'\n'*}
    [[ $status == 200 ]] && return 0
    if [[ $BODY =~ \<Code\>([^<]+)\</Code\>.*\<Message\>([^<]*)\</Message\> ]]; then
        FAILURE="${BASH_REMATCH[1]}: ${BASH_REMATCH[2]}"
    else
        FAILURE="no answer from $ENDPOINT: status $status ${BODY:0:200}"
    fi
    return 1
}

# Sets HOLDER to the interface that has the address, or to nothing.
holder() {
    ec2 "$1" "Action=DescribeNetworkInterfaces&Filter.1.Name=addresses.private-ip-address&Filter.1.Value.1=$VIP&Filter.2.Name=subnet-id&Filter.2.Value.1=$SUBNET" || return 1
    HOLDER=''
    [[ $BODY =~ \<networkInterfaceId\>([^<]+)\< ]] && HOLDER=${BASH_REMATCH[1]}
    return 0
}

assign() {
    ec2 "$1" "Action=AssignPrivateIpAddresses&NetworkInterfaceId=$ENI&PrivateIpAddress.1=$VIP&AllowReassignment=$2"
}

# Full jitter keeps two machines, or many stacks, from calling in step when the API throttles.
pause() {
    local limit=$((100 * 2 ** ($1 < 5 ? $1 : 5)))
    sleep "$(printf '0.%03d' $((limit > 999 ? RANDOM % 999 : RANDOM % limit + 20)))"
    ((limit > 999)) && sleep $((RANDOM % (limit / 1000 + 1)))
    return 0
}

claim() {
    local attempt=0 deadline=$((SECONDS + 60)) patience fetch=''
    exec 8>"$RUN/claim.lock"
    flock --timeout 15 8 || { say "giving up: another claim has been running for 15 s"; return 1; }
    while ((SECONDS < deadline)); do
        patience=$((attempt < 3 ? 2 : 5))
        # The last look before the write: a late claim must not take the address from the next master.
        is_master || { say "no longer master: leaving $VIP where it is"; return 0; }
        if ! credentials $fetch; then
            say "attempt $((attempt + 1)): $FAILURE"
        elif assign "$patience" true; then
            say "attempt $((attempt + 1)): EC2 has assigned $VIP to $ENI"
            if verified; then
                say "claimed $VIP for $ENI"
                return 0
            fi
        else
            say "attempt $((attempt + 1)): $FAILURE"
            # Rotated or half-propagated credentials look like this.
            [[ $FAILURE =~ ^(AuthFailure|ExpiredToken|RequestExpired|InvalidClientTokenId|UnauthorizedOperation) ]] &&
                fetch=fetch
        fi
        pause $((attempt++))
    done
    say "giving up after $attempt attempts; the next reconcile tries again"
    return 1
}

# The API is eventually consistent: the write may be true a little before the read says so.
verified() {
    local look
    for look in 1 2 3 4 5; do
        if ! holder 3; then
            say "look $look: $FAILURE"
        elif [[ $HOLDER == "$ENI" ]]; then
            return 0
        fi
        is_master || return 1
        sleep 0.2
    done
    say "assigned, but ${HOLDER:-nobody} holds $VIP"
    return 1
}

# Two masters (VRRP cut between them, the API reachable for both) must not fight: the one of the highest priority
# (RANK 0) takes a drifted address back at once, the others wait longer, and everybody waits twice as long each time.
reconcile() {
    local strikes=0 held=0 next
    credentials fetch || say "$FAILURE"
    resolve
    is_master || { rm -f "$RUN/drift"; return 0; }
    holder 3 || { say "$FAILURE"; return 1; }
    # shellcheck source=/dev/null
    [[ -r $RUN/drift ]] && . "$RUN/drift"
    next=${next:-$((1 + RANK))}
    if [[ $HOLDER == "$ENI" ]]; then
        strikes=0 held=$((held + 1))
        ((held >= 20)) && next=$((1 + RANK))
    else
        strikes=$((strikes + 1)) held=0
        say "drift: ${HOLDER:-nobody} holds $VIP although this machine is master ($strikes of $next)"
        if ((strikes >= next)); then
            claim || return 1
            strikes=0 next=$((next * 2))
        fi
    fi
    printf 'strikes=%q\nheld=%q\nnext=%q\n' "$strikes" "$held" "$next" >"$RUN/drift"
}

probe() {
    local deadline=$((SECONDS + ${PROBE_SECONDS:-120})) mac
    # A role that was made a moment ago needs a while until the metadata service and the API know it.
    while :; do
        FAILURE=''
        resolve
        if mac=$(metadata mac) && [[ $(metadata "network/interfaces/macs/${mac%/}/interface-id") != "$ENI" ]]; then
            echo "this machine's interface is not $ENI" >&2
            return 1
        fi
        if credentials fetch && holder 5; then
            # Without AllowReassignment the call has no effect while somebody holds the address, but it is
            # authorised first: any answer about the address itself proves the permission.
            if [[ -z $HOLDER ]]; then
                FAILURE="no interface holds $VIP: assign it to one load balancer's interface"
            elif assign 5 false || [[ $FAILURE =~ ^(InvalidParameterValue|InvalidIPAddress|InvalidAddress|PrivateIpAddress) ]]; then
                say "probe: $ROLE may claim $VIP for $ENI at $ENDPOINT; $HOLDER holds it"
                return 0
            fi
        fi
        ((SECONDS < deadline)) || break
        sleep 3
    done
    echo "the virtual IP would not move to this machine: ${FAILURE:-the metadata service does not answer}" >&2
    echo "check the role's policy, and that $ENDPOINT is reachable from the subnet (NAT gateway or VPC endpoint)" >&2
    return 1
}

case ${1-} in
claim | reconcile | probe) "$1" ;;
*)
    echo "usage: claim-vip claim|reconcile|probe" >&2
    exit 64
    ;;
esac
