"""Output of the commands: tables, documents, wording, progress."""
