"""What a drill says of its observations."""

import pytest

from drills.analysis import Attempt, Ledger, ledger, outage


def attempts(*observed: tuple[float, float, str | None]) -> list[Attempt]:
    """Reads, by start, end and error; the fault strikes at 10."""
    return [Attempt("read", n, start, end, error) for n, (start, end, error) in enumerate(observed)]


def test_downtime_ends_with_the_first_success_begun_after_the_last_failure() -> None:
    found = outage(
        attempts(
            (9.9, 9.95, None), (9.99, 10.2, None), (10.1, 11.6, "timeout"), (11.0, 12.5, "timeout"), (11.8, 11.9, None)
        ),
        "read",
        10,
    )
    assert found.downtime == pytest.approx(1.9)
    assert found.gap == pytest.approx(1.7)
    assert (found.failures, found.attempts) == (2, 4)


def test_an_attempt_that_is_held_up_is_downtime_although_it_succeeds() -> None:
    found = outage(
        attempts((9.9, 9.95, None), (10.05, 10.15, "reset"), (10.1, 11.3, None), (10.2, 10.3, None)), "read", 10
    )
    assert found.downtime == pytest.approx(1.3)


def test_a_fault_that_nobody_notices_is_as_long_as_the_longest_gap() -> None:
    found = outage(attempts((9.9, 9.95, None), (10.0, 10.05, None), (10.1, 10.2, None)), "read", 10)
    assert found.downtime == found.gap == pytest.approx(0.15)


def test_a_client_that_never_succeeds_again_is_no_measurement() -> None:
    with pytest.raises(ValueError, match="no read succeeded"):
        outage(attempts((9.9, 9.95, None), (10.1, 12, "timeout")), "read", 10)


def test_the_ledger_tells_lost_rows_from_unanswered_ones() -> None:
    writes = [Attempt("write", n, 0, 1, error) for n, error in enumerate((None, None, "timeout", "timeout"))]
    assert ledger([*writes, Attempt("read", 9, 0, 1, None)], [0, 2]) == Ledger(2, lost=(1,), unknown=(2,))
