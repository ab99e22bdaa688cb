"""Running sweeps: the controller, its retries and the executors."""
