"""The partition that a region is in: the beginning of its ARNs, and the domain of its services."""

import re
from dataclasses import dataclass
from functools import cache

from botocore.loaders import create_loader


@dataclass(frozen=True)
class Partition:
    name: str  # aws, aws-cn …
    domain: str  # amazonaws.com, amazonaws.com.cn …


@cache
def partition(region: str) -> Partition:
    """As AWS's SDKs know it; of a region that they do not know, the first, as they do."""
    known = create_loader().load_data("partitions")["partitions"]
    found = next((each for each in known if re.match(each["regionRegex"], region)), known[0])
    return Partition(found["outputs"]["name"], found["outputs"]["dnsSuffix"])
