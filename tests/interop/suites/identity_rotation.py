"""Certificates of seconds and authorities that are replaced, in files that ours and C-core watch: no call fails."""

import datetime
import itertools
import time

from support import calls
from support.certificates import Authority, Mounted
from support.secured import MTLS, upstream
from support.site import CLIENT, SERVER, Site

PAIRS = [("mesh", "c-core"), ("c-core", "mesh"), ("mesh", "mesh")]
RATE, SECONDS = 100, 20
# Ours makes connections anew for it; C-core goes on with the ones it has.
LIFE = datetime.timedelta(seconds=12)
EVERY = 2
# As many as issued what is still valid, and one more.
TRUSTED = 5


class Rotation:
    """The files of both sides. What comes next is each second time issued by a new authority, which all know before."""

    def __init__(self, folder):
        self.folder = folder
        self.sides = {CLIENT: Mounted(folder / "client"), SERVER: Mounted(folder / "server")}
        self.numbers = itertools.count()
        self.issuer = Authority(folder, "authority")
        self.trusted = [self.issuer]

    def put(self):
        """Replaces the files of both sides, and says where they are."""
        number = next(self.numbers)
        if number % 2:
            self.trusted = [Authority(self.folder, f"authority-{number}"), *self.trusted][:TRUSTED]
        placed = {name: self._place(name, number) for name in self.sides}
        self.issuer = self.trusted[0]
        return placed

    def _place(self, name, number):
        side = self.sides[name]
        return side.put(self.issuer.workload(f"{side.folder.name}-{number}", name, life=LIFE), *self.trusted)


def test_no_call_fails(programs, tmp_path):
    rotation = Rotation(tmp_path)
    placed = rotation.put()
    sites, running = [], []
    try:
        for client, server in PAIRS:
            site = Site(programs, tmp_path / f"{client}-{server}")
            sites.append(site)
            site.client, site.server = placed[CLIENT], placed[SERVER]
            site.serve(server, security=MTLS)
            running.append(site.start(client, upstream(MTLS, SERVER), count=RATE * SECONDS, rate=RATE, deadline="5s"))
        while any(program.running() for program in running):
            time.sleep(EVERY)
            rotation.put()
        done = [calls.summary(program) for program in running]
        assert [each.codes for each in done] == [{"OK": RATE * SECONDS}] * len(PAIRS), done
    finally:
        for site in sites:
            site.stop()
