#!/bin/bash
# User data of denied_claim.py's machine: makes the same call all the time, and writes what changes to the console.
say() { printf 'PROBE %s %s\n' "$EPOCHREALTIME" "$1" >/dev/console; }
metadata() {
    local token
    token=$(curl -fsS -m 2 -X PUT -H 'X-aws-ec2-metadata-token-ttl-seconds: 300' http://169.254.169.254/latest/api/token)
    curl -fsS -m 2 -H "X-aws-ec2-metadata-token: $token" "http://169.254.169.254/latest/meta-data/$1"
}
field() { printf '%s' "$2" | sed -n "s/.*\"$1\" *: *\"\([^\"]*\)\".*/\1/p"; }

ask() {
    local before='' document body now
    say ready
    while :; do
        document=$(metadata 'iam/security-credentials/@ROLE@')
        body=$(curl -sS -m 5 --aws-sigv4 'aws:amz:@REGION@:ec2' -H "X-Amz-Security-Token: $(field Token "$document")" \
            --user "$(field AccessKeyId "$document"):$(field SecretAccessKey "$document")" \
            --data 'Version=2016-11-15&Action=AssignPrivateIpAddresses&NetworkInterfaceId=@ENI@&PrivateIpAddress.1=@VIP@' \
            '@ENDPOINT@/' -w ' status %{http_code}' 2>&1 | tr '\n' ' ')
        now="${body##* status } $(sed -n 's/.*<Code>\([^<]*\)<.*<Message>\(.\{0,160\}\).*/\1: \2/p' <<<"$body")"
        [[ $now == "$before" ]] || say "status $now"
        before=$now
        sleep 0.3
    done
}
ask & # cloud-init waits for its user data's end
