"""Drivers, connections, locks, migrations and bulk writes."""
