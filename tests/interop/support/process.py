"""Programs that a test starts, reads and stops.

What a program prints goes to files in the test's folder, so nothing blocks on a full pipe and a failed test can show it.
No `preexec_fn`: a fork of this process would copy gRPC's threads halfway.
"""

import json
import os
import signal
import subprocess

from support import leaks
from support.wait import until


class Program:
    """One running program."""

    def __init__(self, name, argv, folder, env=None):
        self.name = name
        self.argv = [str(word) for word in argv]
        self.output = folder / f"{name}.out"
        self.errors = folder / f"{name}.err"
        leaks.outputs_of(self)
        with self.output.open("wb") as out, self.errors.open("wb") as err:
            self.process = subprocess.Popen(
                self.argv, stdin=subprocess.DEVNULL, stdout=out, stderr=err, env=os.environ | (env or {})
            )

    @property
    def pid(self):
        return self.process.pid

    def running(self):
        return self.process.poll() is None

    def text(self):
        return self.output.read_text(errors="replace")

    def first_line(self, within=20):
        """The first line of its output: the address, of a program that serves."""
        until(lambda: "\n" in self.text() or not self.running(), within, f"the first line of {self.name}")
        assert "\n" in self.text(), f"{self.name} ended with {self.process.returncode}: {self.tail()}"
        return self.text().split("\n", 1)[0].strip()

    def json_lines(self):
        """The JSON objects printed so far, one a line; a line still being written is left out."""
        lines = self.text().split("\n")[:-1]
        return [json.loads(line) for line in lines if line.startswith("{")]

    def wait(self, within):
        """Its exit status; killed, and the test failed, if it takes longer."""
        try:
            return self.process.wait(within)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"{self.name} did not end within {within} s: {self.tail()}") from None

    def terminate(self):
        """Asks it to end, as an orchestrator does."""
        if self.running():
            self.process.send_signal(signal.SIGTERM)

    def interrupt(self):
        """Asks it to end, as ctrl-c does."""
        if self.running():
            self.process.send_signal(signal.SIGINT)

    def stop(self, within=5):
        """Ends it, with force if need be."""
        self.terminate()
        try:
            self.process.wait(within)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self):
        self.process.kill()
        self.process.wait()

    def tail(self, size=2000):
        return f"{self.text()[-size:]}\n{self.errors.read_text(errors='replace')[-size:]}"


class Programs:
    """The programs of one test. All are ended with it, the last one first."""

    def __init__(self, folder):
        self.folder = folder
        self.started = []

    def start(self, name, argv, env=None):
        """Starts a program; a second one of the same name gets a number."""
        same = sum(1 for program in self.started if program.name.split("#")[0] == name)
        program = Program(f"{name}#{same + 1}" if same else name, argv, self.folder, env)
        self.started.append(program)
        return program

    def serve(self, name, argv, env=None, within=20):
        """Starts a program that prints its address first, which is then its `address`."""
        program = self.start(name, argv, env)
        program.address = program.first_line(within)
        return program

    def stop_all(self):
        for program in reversed(self.started):
            program.stop()
