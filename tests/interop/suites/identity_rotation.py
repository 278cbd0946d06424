"""Certificates of seconds and authorities that are replaced, in files that ours and C-core watch: no call fails.

By default at a brisk pace; with `--long` ours to ours at that of R-08, too: new certificates on both sides every 10 s, three
roots replaced, each of which is known before it is used and for a while after, at 500 calls per second.
"""

import datetime
import os
import time
from dataclasses import dataclass

import pytest

from support import calls
from support.certificates import Authority, Mounted
from support.secured import MTLS, upstream
from support.site import CLIENT, SERVER, Site


@dataclass(frozen=True)
class Course:
    """How calls are made, and what is replaced meanwhile; times are in seconds."""

    pairs: tuple
    rate: int
    seconds: int
    # Of a certificate. Ours makes connections anew for it; C-core goes on with the ones it has.
    life: int
    every: int
    # So many authorities at a time: those that issued what is in use, and one more.
    trusted: int
    # How many authorities were in use and are trusted no more, when the calls end.
    retired: int

    def __str__(self):
        return f"every {self.every} s"


BRISK = Course((("mesh", "c-core"), ("c-core", "mesh"), ("mesh", "mesh")), 100, 20, life=12, every=2, trusted=5, retired=0)
# R-08, and so much longer that the third root that is replaced is trusted no more, either.
R08 = Course((("mesh", "mesh"),), 500, 75, life=20, every=10, trusted=2, retired=3)
COURSES = [BRISK, R08] if os.environ["INTEROP_LONG"] else [BRISK]


class Rotation:
    """The files of both sides. What comes next is each second time issued by a new authority, which all know before."""

    def __init__(self, folder, course):
        self.folder = folder
        self.course = course
        self.sides = {CLIENT: Mounted(folder / "client"), SERVER: Mounted(folder / "server")}
        self.puts = 0
        self.issuer = Authority(folder, "authority")
        self.trusted = [self.issuer]
        self.retired = 0

    def put(self):
        """Replaces the files of both sides, and says where they are."""
        number, self.puts = self.puts, self.puts + 1
        if number % 2:
            known = [Authority(self.folder, f"authority-{number}"), *self.trusted]
            self.trusted, gone = known[: self.course.trusted], known[self.course.trusted :]
            self.retired += len(gone)
        placed = {name: self._place(name, number) for name in self.sides}
        self.issuer = self.trusted[0]
        return placed

    def _place(self, name, number):
        side = self.sides[name]
        life = datetime.timedelta(seconds=self.course.life)
        return side.put(self.issuer.workload(f"{side.folder.name}-{number}", name, life=life), *self.trusted)


@pytest.mark.timeout(180)
@pytest.mark.parametrize("course", COURSES, ids=str)
def test_no_call_fails(programs, tmp_path, course):
    number = course.rate * course.seconds
    rotation = Rotation(tmp_path, course)
    placed = rotation.put()
    sites, running = [], []
    try:
        for client, server in course.pairs:
            site = Site(programs, tmp_path / f"{client}-{server}")
            sites.append(site)
            site.client, site.server = placed[CLIENT], placed[SERVER]
            site.serve(server, security=MTLS)
            running.append(site.start(client, upstream(MTLS, SERVER), count=number, rate=course.rate, deadline="5s"))
        time.sleep(course.every)
        while any(program.running() for program in running):
            rotation.put()
            time.sleep(course.every)
        done = [calls.summary(program) for program in running]
        slowest = max(each.max_ms for each in done)
        print(f"{rotation.puts - 1} rotations of both sides, {rotation.retired} authorities gone, slowest call {slowest} ms")
        assert [each.codes for each in done] == [{"OK": number}] * len(course.pairs), done
        assert rotation.retired >= course.retired
    finally:
        for site in sites:
            site.stop()
