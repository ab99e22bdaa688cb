"""From a recommended configuration to what starts it: a launch command of its server and a Kubernetes manifest."""
