"""The file of an engine: one that is not right is refused, and never does harm."""

import hashlib
import json

import features
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_save_and_load import everything, traffic

from lvscore import Engine, SnapshotError, snapshot


@pytest.fixture(scope="module")
def saved():
    engine = everything()
    features.one_by_one(engine, *traffic(1, 200))
    return b"".join(snapshot.dump(engine))


def test_a_file_that_cannot_be_read_or_written(tmp_path):
    with pytest.raises(SnapshotError, match="none: No such file"):
        Engine.load(tmp_path / "none")
    with pytest.raises(SnapshotError, match="state: No such file"):
        Engine().save(tmp_path / "none" / "state")
    (tmp_path / "state").write_text("hello")
    with pytest.raises(SnapshotError, match="state: not a saved engine"):
        Engine.load(tmp_path / "state")


def test_another_format(saved):
    with pytest.raises(SnapshotError, match="format '9': expected 2"):
        snapshot.parse(Engine, saved.replace(b"snapshot 2", b"snapshot 9", 1))


@settings(max_examples=60)
@given(st.data())
def test_what_is_cut_or_changed_is_refused(saved, data):
    place = data.draw(st.integers(0, len(saved) - 1))
    byte = data.draw(st.integers(1, 255))
    with pytest.raises(SnapshotError):
        snapshot.parse(Engine, saved[:place])
    changed = saved[:place] + bytes([saved[place] ^ byte]) + saved[place + 1 :]
    with pytest.raises(SnapshotError):
        snapshot.parse(Engine, changed)


def sealed(body):
    """A file with a checksum that is right."""
    digest = hashlib.sha256(body).hexdigest().encode()
    return b"lvscore snapshot 2\n" + digest + b"\n" + body


def places(value, way=()):
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, inner in items:
        yield (*way, key)
        if isinstance(inner, dict | list):
            yield from places(inner, (*way, key))


wrong = st.one_of(st.integers(-1, 2), st.integers(-(2**64), 2**64), st.none(), st.text(max_size=3),
                  st.just([]), st.just({}))  # fmt: skip


@settings(max_examples=60)
@given(st.data())
def test_what_contradicts_itself_is_refused_or_does_no_harm(saved, data):
    """A checksum can be made for anything."""
    line, _, blocks = saved.split(b"\n", 2)[2].partition(b"\n")
    header = json.loads(line)
    if data.draw(st.booleans()):
        way = data.draw(st.sampled_from([w for w in places(header) if w[0] != "max_connections"]))
        value = header
        for key in way[:-1]:
            value = value[key]
        value[way[-1]] = data.draw(wrong)
    else:
        changed = bytearray(blocks)
        for _ in range(data.draw(st.integers(1, 4))):
            changed[data.draw(st.integers(0, len(blocks) - 1))] = data.draw(st.integers(0, 255))
        blocks = bytes(changed)
    try:
        engine = snapshot.parse(Engine, sealed(json.dumps(header).encode() + b"\n" + blocks))
    except SnapshotError:
        return
    assert engine._selfcheck() == 0


def test_what_an_older_version_did_not_have_is_0(saved):
    """Fields go by name: of structs, and of rows."""
    line, _, blocks = saved.split(b"\n", 2)[2].partition(b"\n")
    header = json.loads(line)
    for server in header["state"]["services"]["servers"]:
        del server["skip"]
    layout = header["layouts"]["extensions"]
    place = layout["names"].index("timeout")
    for part in ("names", "formats", "offsets"):
        del layout[part][place]
    engine = snapshot.parse(Engine, sealed(json.dumps(header).encode() + b"\n" + blocks))
    assert engine.ipvsadm("-Ln") == snapshot.parse(Engine, saved).ipvsadm("-Ln")
