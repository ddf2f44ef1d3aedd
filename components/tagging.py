"""Tags on everything that AWS can tag, in one place."""

from collections.abc import Mapping

import pulumi

from resource_types import INSTANCE, PROJECT_TAG, STACK_TAG, TAGGED

_TOKENS = frozenset(type_.token for type_ in TAGGED)


def tag_everything(tags: Mapping[str, str]) -> None:
    """Give every resource registered from now on ``tags``, the stack's name, and a Name that is unique in a region."""
    project, stack = pulumi.get_project(), pulumi.get_stack()

    def transform(args: pulumi.ResourceTransformationArgs) -> pulumi.ResourceTransformationResult | None:
        if args.type_ not in _TOKENS:
            return None
        own = {**tags, PROJECT_TAG: project, STACK_TAG: stack, "Name": f"{project}-{stack}-{args.name}"}
        props = {**args.props, "tags": own}
        if args.type_ == INSTANCE:
            props["volume_tags"] = {k: v for k, v in own.items() if k != "Name"}
        return pulumi.ResourceTransformationResult(props=props, opts=args.opts)

    # Not register_resource_transform: Pulumi's mocks, by which the program is tested, have no callback server for it.
    # Not the provider's defaultTags: they know no Name, are not put on volumes, and every preview of a stack that
    # exists would show its tags as removed from the inputs.
    pulumi.runtime.register_stack_transformation(transform)
