"""ipvsadm's grammar against recorded command lines of ipvsadm 1.31."""

import json
import shlex
from pathlib import Path

import pytest

from lvscore.errors import CommandError
from lvscore.ipvsadm.grammar import parse

LINES = json.loads((Path(__file__).parent.parent / "data/ipvsadm-lines.json").read_text())


@pytest.mark.parametrize(("line", "status", "message"), LINES, ids=[line[0] for line in LINES])
def test_recorded_line(line, status, message):
    """A usage error is told with the same words and status; any other line is read."""
    words = shlex.split(line)[1:]
    if status == 0:
        parse(words)
        return
    with pytest.raises(CommandError) as caught:
        parse(words)
    assert (caught.value.status, f"{caught.value}\n") == (status, message)
