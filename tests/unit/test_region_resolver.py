"""The local region's name resolver: what it says itself, and asks nobody."""

import struct

import pytest

from localregion.resolver import no_such_name


def question(name: str) -> bytes:
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.split("."))
    return struct.pack("!6H", 0x1234, 0x0100, 1, 0, 0, 0) + labels + b"\0" + struct.pack("!2H", 12, 1)


@pytest.mark.parametrize("address", ["10.9.8.7", "172.16.0.1", "192.168.107.249", "100.64.0.1", "198.18.0.3"])
def test_a_private_address_has_no_name(address: str) -> None:
    asked = question(".".join(reversed(address.split("."))) + ".in-addr.arpa")
    # An additional record, as many send it (EDNS), is not of the question.
    answer = no_such_name(asked + b"\0\0\x29\x04\xd0\0\0\0\0\0\0")
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
    ],
)
def test_everything_else_is_asked_elsewhere(name: str) -> None:
    assert no_such_name(question(name)) is None


@pytest.mark.parametrize("length", [0, 5, 12, 13, 20])
def test_a_message_that_is_cut_off_is_no_question_of_its_own(length: int) -> None:
    assert no_such_name(question("1.0.0.10.in-addr.arpa")[:length]) is None
