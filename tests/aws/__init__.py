"""Probes: what AWS answers where nobody here knows it. Run by hand in an account of one's own, never by `make test`.

Each is a module: ``python -m tests.aws.reserved_address``. Without ``--yes`` it says what it would create, what that
costs and how it is removed, and ends. It takes the account and region of AWS's usual environment; to see that a probe
works at all, it runs on a local region with ``--local``, and its answers are then the region's and not AWS's.
"""
