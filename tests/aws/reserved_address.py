"""Does an address that a subnet CIDR reservation keeps accept an assignment, and can one in use be reserved?

The VIP is reserved so that nobody gets it by chance (components/virtual_ip.py), and a balancer takes it. The VPC guide
says "explicit: you assign the addresses"; it does not say whether AssignPrivateIpAddresses counts as that.
"""

from tests.aws.account import Account, account, answer


def main() -> None:
    with account(
        (__doc__ or "").splitlines()[0], "a VPC, a subnet, two reservations and an interface", "nothing"
    ) as here:
        _ask(here)


def _ask(here: Account) -> None:
    eni = here.interface(10)
    reserved, used = here.address(100), here.address(101)
    _reserve(here, reserved)
    assign = here.ec2.assign_private_ip_addresses
    said = answer(assign, NetworkInterfaceId=eni, PrivateIpAddresses=[reserved], AllowReassignment=True)
    print(f"an assignment of a reserved address: {said}")
    print(f"once more (the claim is repeated): {answer(assign, NetworkInterfaceId=eni, PrivateIpAddresses=[reserved])}")
    assign(NetworkInterfaceId=eni, PrivateIpAddresses=[used])
    print(f"a reservation of an address in use: {answer(_reserve, here=here, address=used)}")


def _reserve(here: Account, address: str) -> None:
    made = here.ec2.create_subnet_cidr_reservation(
        SubnetId=here.subnet, Cidr=f"{address}/32", ReservationType="explicit"
    )
    identifier = made["SubnetCidrReservation"]["SubnetCidrReservationId"]
    here.undo.callback(here.ec2.delete_subnet_cidr_reservation, SubnetCidrReservationId=identifier)


if __name__ == "__main__":
    main()
