"""An AWS region in one machine: the EC2 API, real machines, and a routed network between them."""
