"""The engine `benchmark`: real servers under load, measured by a client of its own or by a load generator."""
