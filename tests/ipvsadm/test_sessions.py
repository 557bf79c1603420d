"""Whole recorded ipvsadm sessions: what each command printed, and its exit status.

What this engine does not have (firewall marks, persistence ...) it refuses by name; the
service that such a command was for is left out of the comparison from then on.
"""

import json
import re
import shlex
from pathlib import Path

import pytest

from lvscore import ipvsadm
from lvscore.engine import Engine
from lvscore.errors import CommandError

SESSIONS = json.loads((Path(__file__).parent.parent / "data/ipvsadm-sessions.json").read_text())
OPTIONS = {"TCP": "-t", "UDP": "-u", "SCTP": "--sctp-service", "FWM": "-f"}


class NotAvailableError(Exception):
    """The engine does not have it, so there is nothing to compare."""


class Session:
    """An engine, and the services on which it has parted from the recording."""

    def __init__(self):
        self.engine = Engine(seed=0)
        self.parted = set()

    def run(self, words):
        """Return (status, stdout, stderr)."""
        try:
            command = ipvsadm.parse(words)
            if command.service in self.parted:
                if command.name == "delete-service":
                    self.parted.remove(command.service)
                raise NotAvailableError
            output = ipvsadm.run(self.engine, words)
        except CommandError as error:
            if "is not available" in str(error):
                if command.name in ("add-service", "edit-service", "add-server", "edit-server"):
                    self.part(command.service)
                raise NotAvailableError from None
            return error.status, "", f"{error}\n"
        if command.name == "flush":
            self.parted.clear()
        return 0, output, ""

    def restore(self, text):
        """As the real one: line by line, up to the first usage error."""
        status, errors, comparable = 0, "", True
        for line in filter(str.strip, text.splitlines()):
            try:
                status, _, error = self.run(line.split())
            except NotAvailableError:
                comparable = False
                continue
            errors += error
            if status == 2 or error.startswith("Try"):
                break
        if not comparable:
            raise NotAvailableError
        return status, "", errors

    def part(self, key):
        self.parted.add(key)
        for service in self.engine.services:
            if service._key == (key.protocol, (key.address, key.port)):
                service.remove()

    def without_parted(self, text):
        kept, keep = [], True
        for line in text.splitlines(keepends=True):
            if key := service_key(line):
                keep = key not in self.parted
            if keep:
                kept.append(line)
        return "".join(kept)


def service_key(line):
    """The service of a line of a listing or of saved text, if it begins or names one."""
    if match := re.match(r"(TCP|UDP|SCTP|FWM) +(\S+)( IPv6)?", line):
        words = [OPTIONS[match[1]], match[2], *(["-6"] if match[3] else [])]
    elif match := re.match(r"-[Aa] (-f|-t|-u|--sctp-service) (\S+)( -6)?", line):
        words = [match[1], match[2], *(["-6"] if match[3] else [])]
    else:
        return None
    if words[0] == "-f":
        words[1] = str(int(words[1]) % 2**32)  # marks are printed signed
    return ipvsadm.parse(["-L", *words]).service


@pytest.mark.parametrize("recorded", SESSIONS, ids=[one["name"] for one in SESSIONS])
def test_session(recorded):
    session = Session()
    for number, step in enumerate(recorded["steps"]):
        program, *words = shlex.split(step["cmd"])
        if program == "ipvsadm-save":
            words.insert(0, "-S")
        try:
            if "stdin" in step:
                if program == "ipvsadm-restore":
                    session.run(["-C"])
                result = session.restore(step["stdin"])
            else:
                result = session.run(words)
        except NotAvailableError:
            continue
        expected = step["rc"], step.get("stdout", ""), step.get("stderr", "")
        if step["rc"] == 0:
            expected = 0, session.without_parted(expected[1]), expected[2]
        if "--nosort" in words:  # the kernel's order is that of a hash
            result, expected = ((a, sorted(b.splitlines()), c) for a, b, c in (result, expected))
        assert result == expected, f"step {number}: {step['cmd']}"
