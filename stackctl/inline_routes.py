"""Stacks whose route tables had their default route inline: the route becomes the resource that it is now.

The provider refuses to create a route that its table has already, and to delete that one first would cut the machines
off. So the state is told that the route there is the resource that the program declares.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from stackctl.inventory import route_id

TABLE = "aws:ec2/routeTable:RouteTable"
ROUTE = "aws:ec2/route:Route"


def routes(resources: list[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """The default routes in ``resources``, a deployment's, that are known as part of their table only.

    As resources of a deployment; the state needs a refresh after they have been appended to it.
    """
    known = {resource["urn"] for resource in resources}
    for table in resources:
        if table["type"] != TABLE or not table.get("id"):
            continue
        urn = table["urn"].replace(f"{TABLE}::", f"{ROUTE}::").removesuffix("routes") + "default-route"
        if urn in known:
            continue
        for inline in (table.get("inputs") or {}).get("routes") or ():
            target = {key: inline[key] for key in ("gatewayId", "natGatewayId") if inline.get(key)}
            if inline.get("cidrBlock") != "0.0.0.0/0" or len(target) != 1:
                continue
            inputs = {"routeTableId": table["id"], "destinationCidrBlock": inline["cidrBlock"], **target}
            identifier = route_id(table["id"], inline["cidrBlock"])
            yield {
                "urn": urn,
                "custom": True,
                "id": identifier,
                "type": ROUTE,
                "inputs": inputs,
                "outputs": {**inputs, "id": identifier},
                "parent": table["parent"],
                "provider": table["provider"],
                "dependencies": [table["urn"], *table.get("dependencies", ())],
            }
