"""pulumi-resource-command ENGINE_ADDRESS: how Pulumi's engine starts a provider plugin."""

import asyncio
import contextlib
import sys

from standins.command_provider.server import serve


def main() -> None:
    addresses = [argument for argument in sys.argv[1:] if not argument.startswith("-")]
    if not addresses:
        sys.exit("pulumi-resource-command is started by Pulumi's engine, with the engine's address")
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(serve(addresses[0]))


if __name__ == "__main__":
    main()
