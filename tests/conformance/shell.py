"""The shell of a recorded director: the commands that occur in recordings, on a Host.

A command that is not known raises, so that its scenario fails; none is ever skipped.
"""

import re
import shlex
from ipaddress import ip_network

from lvscore import ipvsadm
from lvscore.errors import CommandError, LvscoreError

from .topology import Network


class UnknownCommandError(AssertionError):
    """A command that this shell does not have."""


class Shell:
    """Runs command lines: ``;``, ``||``, ``|``, ``<`` and ``>`` between commands."""

    def __init__(self, network: Network) -> None:
        self.network = network
        self.files: dict[str, str] = {}

    def run(self, line: str, stdin: str = "") -> tuple[int, str, str]:
        """Exit status, standard output and standard error of a command line."""
        status, out, err = 0, "", ""
        lexer = shlex.shlex(line, posix=True, punctuation_chars=";|<>")
        lexer.whitespace_split = True
        lexer.commenters = ""
        for alternatives in _split(lexer, ";"):
            for pipeline in _split(alternatives, "||"):
                status, text, errors = self._pipeline(pipeline, stdin)
                out += text
                err += errors
                if status == 0:
                    break
        return status, out, err

    def _pipeline(self, words: list[str], text: str) -> tuple[int, str, str]:
        status, err = 0, ""
        for command in _split(words, "|"):
            command, source, target, silent = _redirected(command)
            if source is not None:
                text = self.files[source]
            status, text, errors = self._run(command, text)
            err += "" if silent else errors
            if target is not None:
                self._write(target, text)
                text = ""
        return status, text, err

    def _run(self, words: list[str], stdin: str) -> tuple[int, str, str]:
        engine = self.network.engine
        host = self.network.host
        try:
            match words:
                case ["ipvsadm-restore"]:
                    ipvsadm.restore(engine, stdin)
                    return 0, "", ""
                case ["ipvsadm-save", *options]:
                    return 0, ipvsadm.run(engine, ["-S", *options]), ""
                case ["ipvsadm", *options]:
                    return 0, ipvsadm.run(engine, options), ""
                case ["iptables" | "ip6tables", *_]:
                    return 0, engine.iptables(shlex.join(words)), ""
                case ["sort"]:
                    return 0, "".join(sorted(stdin.splitlines(keepends=True))), ""
                case ["echo", *text]:
                    return 0, " ".join(text) + "\n", ""
                case ["sysctl", "-qw", setting]:
                    self.set(*setting.split("=", 1))
                    return 0, "", ""
                case ["ip", "link", "set", interface, "mtu", number]:
                    host.set_mtu(interface, int(number))
                    return 0, "", ""
                case ["ip", "route", "add", "local", prefix, "dev", "lo"]:
                    host.add_route(prefix, local=True)
                    return 0, "", ""
                case ["ip", "route", "del", prefix]:
                    host.remove_route(prefix if prefix == "default" else str(ip_network(prefix)))
                    return 0, "", ""
        except CommandError as error:
            return error.status, "", f"{error}\n"
        except LvscoreError as error:
            raise AssertionError(f"{shlex.join(words)}: {error}") from error
        raise UnknownCommandError(f"unknown command: {shlex.join(words)}")

    def set(self, key: str, value: str) -> None:
        """Set a sysctl, named with dots or slashes."""
        key = key.replace("/", ".")
        if not re.fullmatch(r"-?\d+", value):
            raise UnknownCommandError(f"sysctl {key}={value}")
        target = self.network.engine if key.startswith("net.ipv4.vs.") else self.network.host
        try:
            target.sysctl[key] = int(value)
        except LookupError as error:
            raise UnknownCommandError(f"sysctl {key}: {error}") from None

    def _write(self, path: str, text: str) -> None:
        if path.startswith("/proc/sys/"):
            self.set(path.removeprefix("/proc/sys/"), text.strip())
        else:
            self.files[path] = text


def _split(words, separator: str) -> list[list[str]]:
    """Cut a list of words at a separator."""
    parts: list[list[str]] = [[]]
    for word in words:
        if word == separator:
            parts.append([])
        else:
            parts[-1].append(word)
    return [part for part in parts if part]


def _redirected(words: list[str]) -> tuple[list[str], str | None, str | None, bool]:
    """Words without redirections, the files that these name, and whether errors are thrown away."""
    rest: list[str] = []
    files: dict[str, str | None] = {"<": None, ">": None}
    silent = False
    position = 0
    while position < len(words):
        if words[position : position + 3] == ["2", ">", "/dev/null"]:
            silent = True
            position += 2
        elif words[position] in files:
            files[words[position]] = words[position + 1]
            position += 1
        else:
            rest.append(words[position])
        position += 1
    return rest, files["<"], files[">"], silent
