"""Stored knowledge: tables, sessions, bulk writes, queries and ranking. Never imports Ray or an estimator."""
