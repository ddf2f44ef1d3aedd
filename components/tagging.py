"""Tags on everything that AWS can tag, in one place."""

from collections.abc import Mapping

import pulumi

from resource_types import INSTANCE, PROJECT_TAG, STACK_TAG, TAGGED

_TOKENS = frozenset(type_.token for type_ in TAGGED)


def own_tags() -> dict[str, str]:
    """What all resources of this stack have, and those of no other."""
    return {PROJECT_TAG: pulumi.get_project(), STACK_TAG: pulumi.get_stack()}


def own_filters() -> dict[str, str]:
    """EC2's filters for what has them, by name."""
    return {f"tag:{key}": value for key, value in own_tags().items()}


def name_tag(name: str) -> str:
    """The tag Name of the resource that the program calls ``name``."""
    return f"{pulumi.get_project()}-{pulumi.get_stack()}-{name}"


def tag_everything(tags: Mapping[str, str]) -> None:
    """Give every resource registered from now on ``tags``, the stack's name, and a Name that is unique in a region."""
    mine = own_tags()

    def transform(args: pulumi.ResourceTransformationArgs) -> pulumi.ResourceTransformationResult | None:
        if args.type_ not in _TOKENS:
            return None
        own = {**tags, **mine, "Name": name_tag(args.name)}
        props = {**args.props, "tags": own}
        if args.type_ == INSTANCE:
            props["volume_tags"] = {k: v for k, v in own.items() if k != "Name"}
        return pulumi.ResourceTransformationResult(props=props, opts=args.opts)

    # Not register_resource_transform: Pulumi's mocks, by which the program is tested, have no callback server for it.
    # Not the provider's defaultTags: they know no Name, are not put on volumes, and every preview of a stack that
    # exists would show its tags as removed from the inputs.
    pulumi.runtime.register_stack_transformation(transform)
