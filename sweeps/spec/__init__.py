"""Reading and checking of YAML sweep specs."""
