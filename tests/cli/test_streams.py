"""Standard streams that are closed or full, and files that would be lost."""

import os

import pytest

BAD = b"-A -t \xff\n"


def closing(*numbers):
    """What a shell does for ``<&-`` and ``>&-``."""

    def close():
        for number in numbers:
            os.close(number)

    return close


@pytest.mark.parametrize(
    "words",
    [
        ["replay", "{in}", "-o", "{out}", "-c", "{rules}"],
        ["explain", "{in}", "--frame", "1", "-c", "{rules}"],
        ["ipvsadm", "--rules", "{rules}", "-Ln"],
    ],
)
def test_standard_output_is_closed(start_cli, requests, rules, tmp_path, words):
    names = {"in": requests, "out": tmp_path / "out.pcap", "rules": rules}
    process = start_cli(*(word.format(**names) for word in words), preexec_fn=closing(1))
    _, err = process.communicate()
    assert process.returncode == 1
    assert err == b"lvscore: error: standard output: Bad file descriptor\n"


def test_what_is_told_never_gets_into_a_capture(start_cli, requests, rules, tmp_path):
    """The files that are opened must not have the numbers of streams that are closed."""
    outputs = [tmp_path / "a", tmp_path / "b"]
    for output, close in zip(outputs, (None, closing(0, 1, 2)), strict=True):
        process = start_cli("replay", requests, "-o", output, "-c", rules, preexec_fn=close)
        process.communicate()
        assert process.returncode == (0 if close is None else 1)
    assert outputs[0].read_bytes() == outputs[1].read_bytes()


def test_standard_error_is_closed(start_cli, requests, rules, tmp_path):
    process = start_cli(
        "replay", requests, "-o", tmp_path / "out", "-c", rules, preexec_fn=closing(2)
    )
    out, _ = process.communicate()
    assert process.returncode == 0
    assert b"4 frames: " in out


def test_standard_input_is_closed(start_cli, rules):
    process = start_cli("ipvsadm", "-R", "--rules", rules, preexec_fn=closing(0))
    _, err = process.communicate()
    assert process.returncode == 1
    assert err == b"lvscore: error: standard input: Bad file descriptor\n"


def test_standard_input_is_no_text(start_cli, rules, monkeypatch):
    monkeypatch.setenv("PYTHONIOENCODING", "utf-8:strict")
    before = rules.read_bytes()
    process = start_cli("ipvsadm", "-R", "--rules", rules)
    out, err = process.communicate(BAD)
    assert (process.returncode, out) == (2, b"")
    assert err == b"illegal virtual server address[:port] specified\n"
    assert rules.read_bytes() == before


def test_standard_output_is_full(start_cli, rules):
    with open("/dev/full", "wb") as full:
        process = start_cli("ipvsadm", "--rules", rules, "-Ln", stdout=full)
        _, err = process.communicate()
    assert process.returncode == 1
    assert err == b"lvscore: error: standard output: No space left on device\n"


def test_a_capture_does_not_replace_the_rules(run_cli, requests, rules, tmp_path):
    (tmp_path / "link").hardlink_to(rules)
    before = rules.read_bytes()
    for output in (rules, tmp_path / "link"):
        status, out, err = run_cli("replay", requests, "-o", output, "-c", rules)
        assert (status, out) == (2, "")
        assert err == (
            f"lvscore: error: OUT {output} is the file -c FILE, which would be lost: "
            "expected another\n"
        )
    assert rules.read_bytes() == before
