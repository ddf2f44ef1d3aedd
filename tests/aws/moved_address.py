"""After a call has moved an address: how long until packets follow, until metadata does, what becomes of connections?

AssignPrivateIpAddresses is asynchronous, and AWS names no figure. Two machines answer at a secondary address, which is
moved between them; a third asks all the time. Moments are of the machines' clocks and of this computer's: have it
synchronised (``timedatectl``), or all figures are off by the same amount.
"""

import time
from pathlib import Path

from tests.aws.account import Account, account

MOVES = 6
APART = 10.0  # seconds between moves
PROGRAM = Path(__file__).with_name("moved_address_machine.py")
VIP, SERVERS, CLIENT = 100, (10, 11), 12
ROLES = ("server", "server", "client")


def main() -> None:
    minutes = 3 + MOVES * APART / 60
    makes = f"a VPC, a subnet, a security group, three interfaces and three t3.micro for {minutes:.0f} minutes"
    with account((__doc__ or "").splitlines()[0], makes, "less than 0.01 USD") as here:
        _ask(here)


def _ask(here: Account) -> None:
    group, vip = here.group(), here.address(VIP)
    enis = [here.interface(number, group) for number in (*SERVERS, CLIENT)]
    program = PROGRAM.read_text().replace("@VIP@", vip)
    machines = [here.machine(eni, program.replace("@ROLE@", role)) for eni, role in zip(enis, ROLES, strict=True)]
    for machine in machines:
        here.said(machine, "ready")
    calls = []
    for number in range(MOVES + 1):
        to = number % 2
        here.ec2.assign_private_ip_addresses(
            NetworkInterfaceId=enis[to], PrivateIpAddresses=[vip], AllowReassignment=True
        )
        calls.append((time.time(), to))
        time.sleep(APART)
    *told, seen = (here.said(machine, "ready") for machine in machines)
    print("seconds after the call's answer until")
    for moment, to in calls[1:]:  # the first one has moved it from nowhere
        kept = [f"{words} ({at - moment:.2f})" for at, words in _within(seen, moment) if words.startswith("kept")]
        print(
            f"  packets go to the new one: {_after(seen, moment, f'answered by {here.address(SERVERS[to])}')}, "
            f"its metadata has it: {_after(told[to], moment, 'metadata has it')}, "
            f"the old one's has it not: {_after(told[1 - to], moment, 'metadata has it not')}; "
            f"{'; '.join(kept) or 'the kept connection has noticed nothing'}"
        )


Said = list[tuple[float, str]]


def _within(said: Said, moment: float) -> Said:
    """From a second before, for the clocks' sake, until the next move."""
    return [(at, words) for at, words in said if moment - 1 < at < moment + APART]


def _after(said: Said, moment: float, words: str) -> str:
    return next((f"{at - moment:.2f}" for at, what in _within(said, moment) if what == words), "never")


if __name__ == "__main__":
    main()
