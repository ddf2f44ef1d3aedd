"""Test stacks end by themselves: the expired ones are destroyed, whatever is protected is left alone."""

from stackctl import life, teststack
from stackctl.listing import describe
from stackctl.project import StackError, console, say
from stackctl.pulumi import stack_names


def sweep(local_region: str | None) -> None:
    """Destroy the test stacks that have expired. Raises StackError if anything is left of one of them."""
    failed = []
    for name in stack_names():
        if not name.startswith(teststack.PREFIX):
            continue
        stack = describe(name)
        if not stack.expired:
            continue
        if stack.protected:
            say(f"stack {name} expired at {stack.expires} but is protected: {stack.protected}; left alone")
            continue
        say(f"stack {name} of {stack.owner} expired at {stack.expires}: destroying it")
        try:
            code = life.destroy(life.pulumi_of(name, local_region))
        except StackError as error:
            console.print(f"error: {error}", markup=False)
            code = 1
        if code != 0:
            failed.append(name)
    if failed:
        raise StackError(f"not completely destroyed: {', '.join(failed)}")
