"""The plugin's side of Pulumi's provider protocol."""

import asyncio
import contextlib
import os
import secrets
import signal
from collections.abc import AsyncIterator
from typing import Any

import grpc.aio
from google.protobuf import empty_pb2
from pulumi.provider.experimental.provider import Provider
from pulumi.provider.experimental.server import ProviderServicer
from pulumi.runtime import proto
from pulumi.runtime.proto import engine_pb2, engine_pb2_grpc

from standins.command_provider import VERSION, copy_to_remote, diff, local_command, remote_command
from standins.command_provider.errors import CommandError
from standins.command_provider.operation import Properties, Teller
from standins.command_provider.schema import RESOURCES, Structure, check
from standins.command_provider.values import Unknown, contains_unknown, from_struct, plain, to_struct

COPY, LOCAL, REMOTE = "command:remote:CopyToRemote", "command:local:Command", "command:remote:Command"
# What a command sets, besides the inputs that its state repeats.
OUTPUTS = ("stdout", "stderr")


def _type(urn: str) -> str:
    """The resource's own type: the third part of urn:pulumi:STACK::PROJECT::PARENTS$TYPE::NAME."""
    return urn.split("::")[2].rsplit("$", 1)[-1]


def _name(urn: str) -> str:
    return urn.split("::", 3)[3]


def _structure(urn: str) -> Structure:
    kind = _type(urn)
    if kind not in RESOURCES:
        raise CommandError(f"this stand-in for the command provider has no {kind}; it has {', '.join(RESOURCES)}")
    return RESOURCES[kind]


class Servicer(ProviderServicer):
    def __init__(self, engine_address: str) -> None:
        super().__init__([], VERSION, Provider(), engine_address)
        self._engine = engine_pb2_grpc.EngineStub(grpc.aio.insecure_channel(engine_address))
        self._operations: set[asyncio.Task[Any]] = set()

    async def Configure(self, request: proto.ConfigureRequest, context: Any) -> proto.ConfigureResponse:
        return proto.ConfigureResponse(acceptSecrets=True, supportsPreview=True)

    async def CheckConfig(self, request: proto.CheckRequest, context: Any) -> proto.CheckResponse:
        return proto.CheckResponse(inputs=request.news)

    async def DiffConfig(self, request: proto.DiffRequest, context: Any) -> proto.DiffResponse:
        return proto.DiffResponse(changes=proto.DiffResponse.DIFF_NONE)

    async def Cancel(self, request: Any, context: Any) -> Any:
        self.cancel_operations()
        return empty_pb2.Empty()

    def cancel_operations(self) -> None:
        for operation in self._operations:
            operation.cancel()

    async def Check(self, request: proto.CheckRequest, context: Any) -> proto.CheckResponse:
        async with self._operation(context):
            inputs, problems = check(_structure(request.urn), from_struct(request.news))
            return proto.CheckResponse(
                inputs=to_struct(inputs), failures=[proto.CheckFailure(reason=problem) for problem in problems]
            )

    async def Diff(self, request: proto.DiffRequest, context: Any) -> proto.DiffResponse:
        async with self._operation(context):
            declared = _structure(request.urn).properties
            old = from_struct(request.old_inputs if request.HasField("old_inputs") else request.olds)
            return diff.respond({key: old[key] for key in old if key in declared}, from_struct(request.news))

    async def Read(self, request: proto.ReadRequest, context: Any) -> proto.ReadResponse:
        return proto.ReadResponse(id=request.id, properties=request.properties, inputs=request.inputs)

    async def Create(self, request: proto.CreateRequest, context: Any) -> proto.CreateResponse:
        async with self._operation(context):
            kind, inputs = _type(request.urn), from_struct(request.properties)
            if request.preview:
                expected = {} if kind == COPY else dict.fromkeys(OUTPUTS, Unknown())
                return proto.CreateResponse(properties=to_struct({**inputs, **expected}))
            results: Properties = {}
            if kind == COPY:
                await copy_to_remote.copy(plain(inputs), request.timeout)
            else:
                results = dict.fromkeys(OUTPUTS, "")
                if "create" in inputs:
                    results |= await self._run(request, plain(inputs["create"]), inputs, {})
            identity = ("" if kind == COPY else _name(request.urn)) + secrets.token_hex(4)
            return proto.CreateResponse(id=identity, properties=to_struct({**inputs, **results}))

    async def Update(self, request: proto.UpdateRequest, context: Any) -> proto.UpdateResponse:
        async with self._operation(context):
            kind, old, new = _type(request.urn), from_struct(request.olds), from_struct(request.news)
            if kind == COPY:
                changed = plain(old.get("source")) != plain(new["source"]) or plain(old.get("remotePath")) != plain(
                    new["remotePath"]
                )
                if changed and not request.preview:
                    await copy_to_remote.copy(plain(new), request.timeout)
                return proto.UpdateResponse(properties=to_struct(new))
            kept = {name: old[name] for name in (*OUTPUTS, "assets", "archive") if name in old}
            if request.preview:
                # The outputs stay known only while no input that they may depend on is new or unknown.
                if contains_unknown(new) or any(name in old and old[name] != new[name] for name in new):
                    kept = dict.fromkeys(kept, Unknown())
                return proto.UpdateResponse(properties=to_struct({**new, **kept}))
            command = new.get("update", new.get("create"))
            if command is not None:
                kept |= await self._run(request, plain(command), new, plain(kept))
            return proto.UpdateResponse(properties=to_struct({**new, **kept}))

    async def Delete(self, request: proto.DeleteRequest, context: Any) -> Any:
        async with self._operation(context):
            state = from_struct(request.properties)
            if "delete" in state and _type(request.urn) != COPY:
                await self._run(request, plain(state["delete"]), state, plain(state))
            return empty_pb2.Empty()

    async def _run(self, request: Any, command: str, properties: Properties, previous: Properties) -> Properties:
        _structure(request.urn)
        run = local_command.run if _type(request.urn) == LOCAL else remote_command.run
        return await run(command, plain(properties), previous, self._teller(request.urn), request.timeout)

    def _teller(self, urn: str) -> Teller:
        async def tell(severity: engine_pb2.LogSeverity.ValueType, message: str, ephemeral: bool) -> None:
            # An engine that is gone cannot be told; the operation's own answer fails by itself.
            with contextlib.suppress(grpc.RpcError):
                await self._engine.Log(
                    engine_pb2.LogRequest(severity=severity, message=message, urn=urn, ephemeral=ephemeral)
                )

        return Teller(
            status=lambda line: tell(engine_pb2.INFO, line, True),
            warning=lambda text: tell(engine_pb2.WARNING, text, False),
            error=lambda text: tell(engine_pb2.ERROR, text, False),
        )

    @contextlib.asynccontextmanager
    async def _operation(self, context: Any) -> AsyncIterator[None]:
        """Turns failures into the answer's status, and lets Cancel end what is going on."""
        task = asyncio.current_task()
        assert task is not None
        self._operations.add(task)
        try:
            yield
        except CommandError as error:
            await context.abort(grpc.StatusCode.UNKNOWN, str(error))
        except asyncio.CancelledError:
            await context.abort(grpc.StatusCode.CANCELLED, "context canceled")
        finally:
            self._operations.discard(task)


async def serve(engine_address: str) -> None:
    """Serves until the engine ends it, or is gone itself."""
    unlimited = [("grpc.max_receive_message_length", 400 * 1024 * 1024), ("grpc.max_send_message_length", -1)]
    server = grpc.aio.server(options=unlimited)
    servicer = Servicer(engine_address)
    proto.provider_pb2_grpc.add_ResourceProviderServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(port, flush=True)  # the engine reads it to connect
    ended = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
    # An engine that was killed cannot end its plugins: without this one would stay behind, with its commands.
    engine = os.getppid()
    while os.getppid() == engine and not ended.is_set():
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(ended.wait(), 1)
    servicer.cancel_operations()
    await server.stop(2)
