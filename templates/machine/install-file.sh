#!/bin/bash
# install-file: a file from stdin that is never half-written and never replaces a working one by a broken one.
#
#   install-file PATH MODE OWNER:GROUP [--validate COMMAND] [--apply COMMAND] [--gate COMMAND]
#
# Staged beside the old one; refused if the validation does; swapped in one step; applied to the running software; and
# if that or the gate fails, the old file is back and in force. Commands run in bash and find the new file as $STAGED.
set -euo pipefail

target=$1 mode=$2 owner=$3
shift 3
validate='' apply='' gate=''
while (($#)); do
    case $1 in
    --validate) validate=$2 ;;
    --apply) apply=$2 ;;
    --gate) gate=$2 ;;
    *)
        echo "install-file: unknown option $1" >&2
        exit 64
        ;;
    esac
    shift 2
done

export STAGED=$target.staged
previous=$target.previous
install -d -m 0755 "$(dirname "$target")"
trap 'rm -f "$STAGED"' EXIT
install -m "$mode" -o "${owner%:*}" -g "${owner#*:}" /dev/null "$STAGED"
cat >"$STAGED"
if cmp -s "$STAGED" "$target" && [ "$(stat -c '%a %U:%G' "$STAGED")" = "$(stat -c '%a %U:%G' "$target")" ]; then
    exit 0
fi

if [ -n "$validate" ] && ! words=$(bash -uo pipefail -c "$validate" 2>&1 </dev/null); then
    echo "$target: the new file was refused, the old one stays in force:" >&2
    printf '%s\n' "${words//$STAGED/$target}" | tail -n 40 >&2
    exit 1
fi

rm -f "$previous"
[ ! -e "$target" ] || cp -p "$target" "$previous"
mv -f "$STAGED" "$target"

in_force() {
    local command
    for command in "$apply" "$gate"; do
        [ -z "$command" ] || bash -uo pipefail -c "$command" >&2 </dev/null || return 1
    done
}

if ! in_force; then
    if [ -e "$previous" ]; then
        echo "$target: it did not work with the new file; the old one is back" >&2
        mv -f "$previous" "$target"
        in_force || echo "$target: it does not work with the old file either" >&2
    else
        echo "$target: it did not work with the new file; it was taken away again" >&2
        rm -f "$target"
    fi
    exit 1
fi
