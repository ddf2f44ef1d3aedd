"""The local region's name resolver: what it says itself, and asks nobody."""

import struct
from ipaddress import IPv4Address

import pytest

from localregion.resolver import own_answer

A, PTR, AAAA = 1, 12, 28
NAMES = {"ec2.eu-central-1.amazonaws.com": IPv4Address("192.168.107.132")}


def question(name: str, kind: int = PTR) -> bytes:
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.split("."))
    return struct.pack("!6H", 0x1234, 0x0100, 1, 0, 0, 0) + labels + b"\0" + struct.pack("!2H", kind, 1)


@pytest.mark.parametrize("address", ["10.9.8.7", "172.16.0.1", "192.168.107.249", "100.64.0.1", "198.18.0.3"])
def test_a_private_address_has_no_name(address: str) -> None:
    asked = question(".".join(reversed(address.split("."))) + ".in-addr.arpa")
    # An additional record, as many send it (EDNS), is not of the question.
    answer = own_answer(asked + b"\0\0\x29\x04\xd0\0\0\0\0\0\0", NAMES)
    assert answer
    number, flags, questions, *others = struct.unpack("!6H", answer[:12])
    assert (number, questions, others) == (0x1234, 1, [0, 0, 0])
    assert flags & 0x8000, "an answer"
    assert flags & 0x000F == 3, "NXDOMAIN"
    assert answer[12:] == asked[12:]


@pytest.mark.parametrize(
    "name",
    [
        "deb.example.com",
        "8.8.8.8.in-addr.arpa",
        "300.1.168.192.in-addr.arpa",
        "168.192.in-addr.arpa",
        "7.9.10.ip6.arpa",
        "ec2.eu-west-1.amazonaws.com",
    ],
)
def test_everything_else_is_asked_elsewhere(name: str) -> None:
    assert own_answer(question(name), NAMES) is None


@pytest.mark.parametrize("length", [0, 5, 12, 13, 20])
def test_a_message_that_is_cut_off_is_no_question_of_its_own(length: int) -> None:
    assert own_answer(question("1.0.0.10.in-addr.arpa")[:length], NAMES) is None


@pytest.mark.parametrize("name", ["ec2.eu-central-1.amazonaws.com", "EC2.eu-central-1.amazonaws.com"])
def test_the_name_of_an_endpoint_leads_to_it_and_it_has_an_address_of_this_kind_alone(name: str) -> None:
    for kind in (A, AAAA):
        asked = question(name, kind)
        answer = own_answer(asked + b"\0\0\x29\x04\xd0\0\0\0\0\0\0", NAMES)
        assert answer
        number, flags, *counts = struct.unpack("!6H", answer[:12])
        assert (number, flags, counts) == (0x1234, 0x8180, [1, int(kind == A), 0, 0])
        record = answer[len(asked) :]
        assert answer[12 : len(asked)] == asked[12:]
        assert record == (struct.pack("!3HIH", 0xC00C, A, 1, 60, 4) + bytes([192, 168, 107, 132]) if kind == A else b"")
