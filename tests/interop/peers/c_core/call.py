"""The options and the summary of our `call`, with gRPC C-core's client: what it does is what is expected of ours. With
`--xds-credentials` it has TLS as the control plane says, which ours has always.

The endpoint of a call is what the server says in the header `echo-address`: C-core tells a client no address.
"""

import argparse
import asyncio
import base64
import json
import os
import sys
import time
from collections import Counter

_ROUND_ROBIN = json.dumps({"loadBalancingConfig": [{"round_robin": {}}]})


def options():
    parser = argparse.ArgumentParser()
    parser.add_argument("--bootstrap")
    parser.add_argument("--xds-credentials", action="store_true", help="TLS as the control plane says (A29)")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--each", action="store_true")
    parser.add_argument("--show", action="append", default=[], help="a header of the answers for the line of each call")
    parser.add_argument("--service-config", help="in the place of round robin, for static targets")
    parser.add_argument("--count", type=int, default=1)
    parser.add_argument("--concurrency", type=int, default=1)
    parser.add_argument("--rate", type=float)
    parser.add_argument("--deadline", type=seconds, default=15, help="in seconds, as in 15s; 0s: none")
    parser.add_argument("--header", action="append", default=[], type=header)
    parser.add_argument("--data", default=b"", type=data)
    parser.add_argument("target")
    parser.add_argument("method")
    return parser.parse_args()


def seconds(text):
    return float(text.removesuffix("s")) or None


def header(text):
    name, value = text.split("=", 1)
    return name, base64.b64decode(value) if name.endswith("-bin") else value


def numbered(value, number):
    """The value with the number of the call in the place of `{n}`."""
    return value.replace("{n}", str(number)) if isinstance(value, str) else value


def data(text):
    if not text.startswith("@"):
        return bytes.fromhex(text)
    with open(text[1:], "rb") as file:
        return file.read()


class Calls:
    def __init__(self, args, send):
        self.args = args
        self.send = send
        self.begin = time.monotonic()
        self.codes = Counter()
        self.endpoints = Counter()
        self.message = ""
        self.taken_ms = []
        self.reply = b""

    async def one(self, number):
        begin = time.monotonic()
        metadata = [(name, numbered(value, number)) for name, value in self.args.header]
        call = self.send(self.args.data, metadata=metadata, timeout=self.args.deadline)
        code, message = await call.code(), await call.details()
        headers = list(await call.initial_metadata() or ())
        self.note(number, begin, code.name, message or "", headers)
        if code.name == "OK":
            self.reply = await call

    def note(self, number, begin, code, message, headers):
        endpoint = dict(headers).get("echo-address")
        now = time.monotonic()
        taken = (now - begin) * 1000
        self.codes[code] += 1
        self.taken_ms.append(taken)
        if endpoint:
            self.endpoints[endpoint] += 1
        if code != "OK" and not self.message:
            self.message = message
        if self.args.each:
            since = (now - self.begin) * 1000
            line = {"n": number, "t_ms": since, "code": code, "ms": taken, "endpoint": endpoint, "message": message}
            shown = {name: [value for key, value in headers if key == name] for name in self.args.show}
            print(json.dumps(line | ({"headers": shown} if shown else {})), flush=True)

    async def by_concurrency(self):
        left = iter(range(self.args.count))

        async def worker():
            for number in left:
                await self.one(number)

        await asyncio.gather(*(worker() for _ in range(self.args.concurrency)))

    async def by_rate(self):
        """Each call at its time, whatever became of those before."""
        tasks = []
        for number in range(self.args.count):
            await asyncio.sleep(self.begin + number / self.args.rate - time.monotonic())
            tasks.append(asyncio.create_task(self.one(number)))
        await asyncio.gather(*tasks)

    def summary(self):
        ordered = sorted(self.taken_ms)
        at = lambda part: round(ordered[min(len(ordered) - 1, int(len(ordered) * part))], 3)
        out = {"calls": len(ordered), "codes": self.codes, "endpoints": self.endpoints, "message": self.message}
        out |= {"p50_ms": at(0.5), "p99_ms": at(0.99), "max_ms": at(1)}
        return out | ({"reply": self.reply.hex()} if len(ordered) == 1 else {})


async def main(args):
    if args.bootstrap:
        os.environ["GRPC_XDS_BOOTSTRAP"] = args.bootstrap
    import grpc  # reads the environment when it is imported
    import grpc.experimental

    target, config = args.target, []
    if target.startswith("static:///"):
        target = "ipv4:" + target.removeprefix("static:///")
        config = [("grpc.service_config", args.service_config or _ROUND_ROBIN)]
    # The fallback where the control plane asks for no TLS.
    credentials = grpc.experimental.insecure_channel_credentials()
    if args.xds_credentials:
        credentials = grpc.xds_channel_credentials(credentials)
    async with grpc.aio.secure_channel(target, credentials, options=config) as channel:
        calls = Calls(args, channel.unary_unary(args.method))
        await (calls.by_rate() if args.rate else calls.by_concurrency())
    print(json.dumps(calls.summary()), flush=True)
    return 0 if calls.codes["OK"] == args.count else 1


if __name__ == "__main__":
    sys.exit(asyncio.run(main(options())))
