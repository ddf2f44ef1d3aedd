"""Failover drills: break something in the local region, and measure what a client sees."""
