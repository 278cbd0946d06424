"""gRPC C-core's server: answers every unary method with the bytes it was sent, at an address that it prints first.

The address is that of its argument, `127.0.0.1:0` if there is none.

Metadata of a call ask for more: `echo-delay: 0.5` (seconds from the headers to the answer), `echo-hold: 0.5` (seconds
until the headers), `echo-size: 1000` (answer with so many bytes), `echo-status: 5` with `echo-message-bin: text` (fail
so). The header `echo-address` says who answered, and `/interop.Echo/Count` how many calls it took. `echo-fail: 14`
fails the first `echo-fail-times` calls that the server takes, without headers before the status, and with
`echo-pushback` as `grpc-retry-pushback-ms`. With `echo-only: ADDRESS` the other servers do none of this.
`/interop.Echo/Last` answers with the last call's method and metadata as a JSON object. On SIGTERM it drains.
"""

import asyncio
import json
import signal
import sys

import grpc

_GRACE_SECONDS = 10
_CODES = {code.value[0]: code for code in grpc.StatusCode}


class Echo(grpc.GenericRpcHandler):
    def __init__(self):
        self.address = ""
        self.taken = 0
        self.last = {}

    def service(self, details):
        asked = {"/interop.Echo/Count": self.count, "/interop.Echo/Last": self.tell_last}.get(details.method)
        if not asked:
            self.last = {":method": details.method, **dict(details.invocation_metadata)}
        return grpc.unary_unary_rpc_method_handler(asked or self.echo)

    async def tell_last(self, _request, _context):
        return json.dumps(self.last, default=repr).encode()

    async def count(self, _request, _context):
        return str(self.taken).encode()

    async def echo(self, request, context):
        self.taken += 1
        sent = dict(context.invocation_metadata())
        asked = sent if sent.get("echo-only", self.address) == self.address else {}
        if self.taken <= int(asked.get("echo-fail-times", 0)):
            pushback = asked.get("echo-pushback")
            trailing = (("grpc-retry-pushback-ms", pushback),) if pushback else ()
            await context.abort(_CODES[int(asked["echo-fail"])], "as asked", trailing)
        if hold := asked.get("echo-hold"):
            await asyncio.sleep(float(hold))
        await context.send_initial_metadata((("echo-address", self.address),))
        if delay := asked.get("echo-delay"):
            await asyncio.sleep(float(delay))
        if code := asked.get("echo-status"):
            await context.abort(_CODES[int(code)], asked.get("echo-message-bin", b"").decode())
        if size := asked.get("echo-size"):
            return bytes(int(size))
        return request


async def main(listen):
    echo = Echo()
    server = grpc.aio.server(handlers=[echo], options=[("grpc.so_reuseport", 0)])
    host, _ = listen.rsplit(":", 1)
    echo.address = f"{host}:{server.add_insecure_port(listen)}"
    await server.start()
    print(echo.address, flush=True)
    term = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, term.set)
    await term.wait()
    await server.stop(_GRACE_SECONDS)


asyncio.run(main(*(sys.argv[1:] or ["127.0.0.1:0"])))
