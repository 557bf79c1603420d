"""Files that are replaced as a whole."""

import os
import stat

import pytest

from lvscore._files import replace_file


@pytest.mark.parametrize("mode", [None, 0o600])
def test_permissions_and_owner(tmp_path, mode):
    path = tmp_path / "rules"
    path.write_bytes(b"old")
    path.chmod(0o640)
    if os.geteuid() == 0:
        os.chown(path, 1, 2)
    owner = path.stat().st_uid, path.stat().st_gid
    replace_file(str(path), [b"n", b"ew"], mode)
    found = path.stat()
    assert path.read_bytes() == b"new"
    assert stat.S_IMODE(found.st_mode) == (mode or 0o640)
    # What only its owner may read belongs to whoever wrote it.
    mine = os.geteuid(), os.getegid()
    assert (found.st_uid, found.st_gid) == (owner if mode is None else mine)
    assert os.listdir(tmp_path) == ["rules"]


def test_what_is_no_file_stays(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(OSError, match="is there, and no regular file"):
        replace_file(str(pipe), [b"new"])
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    for path in (str(tmp_path), ""):
        with pytest.raises(OSError, match=r"Is a directory|No such file"):
            replace_file(path, [b"new"])
    assert os.listdir(tmp_path) == ["pipe"]
