"""A stand-in for Pulumi's `command` provider plugin, for machines that cannot download the real one.

It is a test double, not a replacement: `remote:Command`, `remote:CopyToRemote`
and `local:Command` with the semantics of version 1.2.1, written after its Go
sources (github.com/pulumi/pulumi-command, and github.com/pulumi/pulumi-go-provider
1.3.0 for what the real one inherits: checks, defaults, diffs, secrets, previews).
`make up` says when it is used; tests/contract runs the same tests on the real one.

It subclasses the gRPC servicer of Pulumi's Python SDK, and not the SDK's
`Provider` class above it, because the latter drops what is needed here: the
hashes of assets, the old inputs of a diff, unknown values in a preview's answer,
and the wording of errors.
"""

VERSION = "1.2.1"
