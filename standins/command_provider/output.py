"""A command's output: kept apart and together, and told to the engine line by line."""

import asyncio
import codecs
from collections.abc import Awaitable, Callable

# Tells the engine one line that belongs to the resource; nothing of it is kept.
Log = Callable[[str], Awaitable[None]]


class Output:
    def __init__(self, logging: str | None, log: Log) -> None:
        """`logging` is the resource's property: which of the two streams is told, both when it is not given."""
        self.stdout = bytearray()
        self.stderr = bytearray()
        self.both = bytearray()
        self._lines: asyncio.Queue[str | None] = asyncio.Queue()
        self._told = {
            "stdout": logging in (None, "stdout", "stdoutAndStderr"),
            "stderr": logging in (None, "stderr", "stdoutAndStderr"),
        }
        self._unfinished = ""
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._teller = asyncio.create_task(self._tell(log))

    def feed(self, stream: str, data: bytes) -> None:
        """Takes what arrived on "stdout" or "stderr"."""
        (self.stdout if stream == "stdout" else self.stderr).extend(data)
        self.both.extend(data)
        if self._told[stream]:
            *lines, self._unfinished = (self._unfinished + self._decoder.decode(data)).split("\n")
            for line in lines:
                self._lines.put_nowait(line)

    async def finish(self) -> None:
        """Waits until the engine has been told everything."""
        if self._unfinished:
            self._lines.put_nowait(self._unfinished)
        self._lines.put_nowait(None)
        await self._teller

    async def _tell(self, log: Log) -> None:
        while (line := await self._lines.get()) is not None:
            await log(line)

    def outputs(self) -> dict[str, str]:
        """The properties `stdout` and `stderr`, each without its last line end."""
        return {
            name: stream.decode(errors="replace").removesuffix("\n")
            for name, stream in (("stdout", self.stdout), ("stderr", self.stderr))
        }
