"""Requests sent to a server, by gpuscout or a load generator, and the figures of what came back."""
