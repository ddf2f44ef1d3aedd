"""What a machine of the local region can be called on the command line."""

import pytest

from localregion.targets import Target, resolve, stack_of

LOCAL = Target("i-1", "mycat-ha-local-node1-instance", "local", ("10.1.0.5", "10.1.0.9"))
OTHER = Target("i-2", "mycat-ha-test-local-node1-instance", "test-local", ("10.2.0.5",))
SPARE = Target("i-3", "mycat-ha-local-spare-node1-instance", "local", ("10.1.0.6",))
BARE = Target("i-4", "builder", "", ("10.3.0.5",))
NAMELESS = Target("i-5")


@pytest.mark.parametrize(
    ("name", "machine"),
    [
        ("i-2", OTHER),
        ("mycat-ha-test-local-node1-instance", OTHER),
        ("10.1.0.9", LOCAL),
        ("10.2.0.5", OTHER),
        ("local/node1", LOCAL),
        ("test-local/node1", OTHER),
        ("local/spare-node1", SPARE),
        ("spare-node1", SPARE),
        ("test-local-node1", OTHER),
        ("builder", BARE),
        ("i-5", NAMELESS),
    ],
)
def test_a_name_finds_its_machine(name: str, machine: Target) -> None:
    assert resolve(name, [LOCAL, OTHER, SPARE, BARE, NAMELESS]) == machine.id


def test_a_name_alone_is_enough_for_one_stack() -> None:
    assert resolve("node1", [LOCAL, SPARE, BARE]) == LOCAL.id


def test_the_error_of_an_ambiguous_name_has_the_names_that_are_not() -> None:
    machines = [LOCAL, OTHER, SPARE]
    with pytest.raises(LookupError, match=r"^2 machines are called node1") as error:
        resolve("node1", machines)
    assert "local/node1 (i-1), test-local/node1 (i-2)" in str(error.value)
    assert "spare" not in str(error.value)
    assert [resolve(machine.qualified, machines) for machine in machines] == [machine.id for machine in machines]


@pytest.mark.parametrize("name", ["node9", "other/node1", "ode1", "", "local/"])
def test_the_error_of_an_unknown_name_has_those_that_there_are(name: str) -> None:
    with pytest.raises(LookupError, match=r"no machine is called .*; there are: local/node1 \(i-1\), builder \(i-4\)$"):
        resolve(name, [LOCAL, BARE])


def test_the_stack_is_read_from_its_tag_whatever_the_prefix() -> None:
    assert stack_of([("Name", "x"), ("mycat-ha:stack", "local")]) == "local"
    assert stack_of([("stack", "mine")]) == "mine"
    assert stack_of([("haystack", "x"), ("mycat-ha:project", "y")]) == ""
