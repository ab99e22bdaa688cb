"""Executors: where blocks are evaluated (this process, a Ray cluster), behind one interface."""
