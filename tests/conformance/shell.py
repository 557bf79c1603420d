"""The shell of a recorded director: the commands that occur in recordings, on a Host.

A command that is not known raises, so that its scenario fails; none is ever skipped.
"""

import re
import shlex
from fnmatch import fnmatch
from ipaddress import ip_network

from lvscore import ipvsadm, programs
from lvscore.errors import CommandError, LvscoreError

from .files import Files
from .topology import Network


class UnknownCommandError(AssertionError):
    """A command that this shell does not have."""


# for NAME in WORDS; do COMMANDS; done [| COMMANDS]
_LOOP = re.compile(r"for\s+(\w+)\s+in\s+([^;]+);\s*do\s+(.+?)\s*;?\s*done\s*(?:\|(?!\|)(.+))?$")
# cd FOLDER; COMMANDS
_CHANGE = re.compile(r"cd\s+(\S+?)\s*(?:;|&&)\s*(.+)$")


class Shell:
    """Runs command lines: ``;``, ``&&``, ``||``, ``|``, ``<`` and ``>`` between commands,
    ``cd``, ``for`` over words and files, ``$NAME`` and ``$(COMMANDS)`` in its body."""

    def __init__(self, network: Network) -> None:
        self.network = network
        self.files = Files(network)
        self.folder = "/"

    def run(self, line: str, stdin: str = "") -> tuple[int, str, str]:
        """Exit status, standard output and standard error of a command line."""
        if change := _CHANGE.match(line.strip()):
            folder, line = change.groups()
            self.folder, before = folder.rstrip("/") + "/", self.folder
            result = self.run(line, stdin)
            self.folder = before
            return result
        if loop := _LOOP.match(line.strip()):
            return self._loop(*loop.groups())
        status, out, err = 0, "", ""
        lexer = shlex.shlex(line, posix=True, punctuation_chars=";|<>")
        lexer.whitespace_split = True
        lexer.commenters = ""
        for alternatives in _split(lexer, ";"):
            for pipeline in _split(alternatives, "||"):
                for required in _split(pipeline, "&&"):
                    status, text, errors = self._pipeline(required, stdin)
                    out += text
                    err += errors
                    if status:
                        break
                if status == 0:
                    break
        return status, out, err

    def _loop(self, name: str, words: str, body: str, rest: str | None) -> tuple[int, str, str]:
        status, out, err = 0, "", ""
        for word in self._matching(shlex.split(self._printed(words))):
            status, text, errors = self.run(self._expanded(body, name, word))
            out += text
            err += errors
        if rest is not None:
            status, out, errors = self.run(rest, out)
            err += errors
        return status, out, err

    def _matching(self, words: list[str]) -> list[str]:
        """Words, those with wildcards as the paths that they match."""
        found: list[str] = []
        for word in words:
            path = self._path(word)
            folder, _, pattern = path.rpartition("/")
            if re.search(r"[*?[]", pattern):
                left_out = path.removesuffix(word)
                found += [
                    one.removeprefix(left_out)
                    for one in self.files.below(folder)
                    if "/" not in one[len(folder) + 1 :] and fnmatch(one, path)
                ]
            else:
                found.append(word)
        return found

    def _path(self, word: str) -> str:
        return word if word.startswith("/") else self.folder + word

    def _expanded(self, text: str, name: str, value: str) -> str:
        """A command with its variable, and what commands in it print, put in."""
        text = re.sub(rf"\$\{{{name}##\*/\}}", value.rpartition("/")[2], text)
        return self._printed(re.sub(rf"\$(?:{name}\b|\{{{name}\}})", value, text))

    def _printed(self, text: str) -> str:
        """A command with what commands in it print put in."""
        return re.sub(r"\$\(([^()]*)\)", lambda match: self.run(match[1])[1].rstrip("\n"), text)

    def _pipeline(self, words: list[str], text: str) -> tuple[int, str, str]:
        status, err = 0, ""
        for command in _split(words, "|"):
            command, source, target, silent = _redirected(command)
            if source is not None:
                found = self.files.read(source)
                if found is None:
                    raise UnknownCommandError(f"no file {source}")
                text = found
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
                case ["ipvsadm" | "ipvsadm-save" | "ipvsadm-restore", *_]:
                    return ipvsadm.execute(engine, words, stdin)
                case ["iptables" | "ip6tables", *_]:
                    return 0, engine.iptables(shlex.join(words)), ""
                case ["iptables-save" | "ip6tables-save", *_]:
                    return programs.execute(engine, words)
                case ["cat", *paths] if paths:
                    return self._cat(self._matching(paths))
                case ["grep", "-r", pattern, folder]:
                    return self._grep_below(pattern, folder)
                case ["grep", pattern]:
                    found = [line for line in stdin.splitlines() if re.search(pattern, line)]
                    return (0 if found else 1), "".join(f"{line}\n" for line in found), ""
                case ["ls", folder]:
                    names = {path.removeprefix(f"{folder.rstrip('/')}/").split("/")[0]
                             for path in self.files.below(folder)}  # fmt: skip
                    return 0, "".join(f"{name}\n" for name in sorted(names)), ""
                case ["[", "-f" | "-r" | "-e", path, "]"]:
                    return (1 if self.files.read(self._path(path)) is None else 0), "", ""
                case ["basename", path]:
                    return 0, path.rpartition("/")[2] + "\n", ""
                case ["sysctl", "-a"]:
                    return 0, "", ""  # as recorded: it told nothing of net.ipv4.vs
                case ["conntrack", *_]:
                    return programs.execute(engine, words)
                case ["sort"]:
                    return 0, "".join(sorted(stdin.splitlines(keepends=True))), ""
                case ["echo", *text]:
                    return 0, " ".join(text) + "\n", ""
                case ["printf", layout, *values]:
                    return 0, layout.replace("\\n", "\n") % tuple(values), ""
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

    def _cat(self, paths: list[str]) -> tuple[int, str, str]:
        texts = [self.files.read(self._path(path)) for path in paths]
        if None in texts:
            raise UnknownCommandError(f"no file {paths[texts.index(None)]}")
        return 0, "".join(map(str, texts)), ""

    def _grep_below(self, pattern: str, folder: str) -> tuple[int, str, str]:
        found = [
            f"{path}:{line}\n"
            for path in self.files.below(folder)
            for line in (self.files.read(path) or "").splitlines()
            if re.search(pattern, line)
        ]
        return (0 if found else 1), "".join(found), ""

    def set(self, key: str, value: str) -> None:
        """Set a sysctl, named with dots or slashes."""
        key = key.replace("/", ".")
        if self.files.has_setting(key, value):
            return
        if not re.fullmatch(r"-?\d+", value):
            raise UnknownCommandError(f"sysctl {key}={value}")
        engines = ("net.ipv4.vs.", "net.netfilter.")
        target = self.network.engine if key.startswith(engines) else self.network.host
        try:
            target.sysctl[key] = int(value)
        except LookupError as error:
            raise UnknownCommandError(f"sysctl {key}: {error}") from None

    def _write(self, path: str, text: str) -> None:
        if path.startswith("/proc/sys/"):
            self.set(path.removeprefix("/proc/sys/"), text.strip())
        else:
            self.files.written[path] = text


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
        redirected = words[position : position + 3]
        # Standard error is only ever sent where nobody reads it.
        if redirected == ["2", ">", "/dev/null"] or (
            redirected == ["2", ">", "&1"] and files[">"] == "/dev/null"
        ):
            silent = True
            position += 2
        elif words[position] in files:
            files[words[position]] = words[position + 1]
            position += 1
        else:
            rest.append(words[position])
        position += 1
    return rest, files["<"], files[">"], silent
