"""A ranking as people read it: tables, notes, explanations, documents and the report."""
