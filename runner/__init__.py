"""How it is evaluated: resolving names, engines, executors, the controller and the command line."""
