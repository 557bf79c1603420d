"""Real servers that die, go away, are weighted to 0, and come back while clients are at work."""

import re

import pytest
from namespaces import LVS, PAGES, RS01, RS02, VIP, Download, missing, services

_WHY = missing()
pytestmark = pytest.mark.skipif(bool(_WHY), reason=_WHY or "complete")

PAGE = {RS01: PAGES["rs01"], RS02: PAGES["rs02"]}


def test_a_server_weighted_to_0_ends_what_it_has_begun(lab, director, large):
    """New clients go elsewhere, the download goes on to its end (ip_vs: quiesced)."""
    download = Download(lab, f"http://{VIP}/large")
    (busy,) = re.findall(r"-> (\S+):80 +Masq +1 +1 ", lab.ask("ipvsadm", "-Ln"))
    lab.ask("ipvsadm", "-e", "-t", f"{VIP}:80", "-r", f"{busy}:80", "-m", "-w", "0")
    (other,) = PAGE.keys() - {busy}
    assert {lab.curl(f"http://{VIP}/") for _ in range(4)} == {PAGE[other]}
    assert f"{busy}:80                Masq    0      1" in lab.ask("ipvsadm", "-Ln")
    assert download.rest() == large[1]
    lab.ask("ipvsadm", "-e", "-t", f"{VIP}:80", "-r", f"{busy}:80", "-m", "-w", "1")
    assert {lab.curl(f"http://{VIP}/") for _ in range(4)} == set(PAGES.values())


def test_a_server_whose_nginx_is_killed(lab, director, large, request):
    """Its clients are refused at once, the others are served; deleted, nobody notices."""
    download = Download(lab, f"http://{VIP}/large")
    (busy,) = re.findall(r"-> (\S+):80 +Masq +1 +1 ", lab.ask("ipvsadm", "-Ln"))
    node, dead = ("rs02", RS02) if busy == RS01 else ("rs01", RS01)
    lab.stop(lab.web[node])
    request.addfinalizer(lambda: lab.serve(node, PAGES[node]))
    answers = [lab.curl(f"http://{VIP}/") for _ in range(4)]
    assert answers.count(PAGE[busy]) == 2
    assert sum("Couldn't connect" in answer for answer in answers) == 2
    lab.ask("ipvsadm", "-d", "-t", f"{VIP}:80", "-r", f"{dead}:80")
    assert {lab.curl(f"http://{VIP}/") for _ in range(4)} == {PAGE[busy]}
    assert download.rest() == large[1]
    lab.serve(node, PAGES[node])
    lab.ask("ipvsadm", "-a", "-t", f"{VIP}:80", "-r", f"{dead}:80", "-m")
    assert {lab.curl(f"http://{VIP}/") for _ in range(4)} == set(PAGES.values())


def test_a_server_that_is_cut_off(lab, director, large):
    """Its port is down: its clients wait in vain, what the others load arrives."""
    assert {lab.curl(f"http://{VIP}/") for _ in range(2)} == set(PAGES.values())
    download = Download(lab, f"http://{VIP}/large")
    (busy,) = re.findall(r"-> (\S+):80 +Masq +1 +1 ", lab.ask("ipvsadm", "-Ln"))
    node = "rs02" if busy == RS01 else "rs01"
    lab.run("lan", "ip", "link", "set", f"p-{node}", "down")
    answers = [lab.curl(f"http://{VIP}/", "-m", "1") for _ in range(4)]
    assert answers.count(PAGE[busy]) == 2
    assert sum("timed out" in answer for answer in answers) == 2
    assert download.rest() == large[1]
    lab.run("lan", "ip", "link", "set", f"p-{node}", "up")
    assert {lab.curl(f"http://{VIP}/") for _ in range(4)} == set(PAGES.values())


def test_a_director_that_is_killed_and_started_again(lab, offloads):
    """Without a saved state: its clients are told so at once, and new ones are served."""
    first = lab.director(*LVS, *services())
    assert {lab.curl(f"http://{VIP}/") for _ in range(2)} == set(PAGES.values())
    first.kill()
    first.wait()
    assert "timed out" in lab.curl(f"http://{VIP}/", "-m", "1")
    second = lab.director(*LVS, *services())
    assert {lab.curl(f"http://{VIP}/") for _ in range(2)} == set(PAGES.values())
    assert lab.stop(second) == 0
