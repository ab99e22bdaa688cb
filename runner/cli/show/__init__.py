"""What the commands print: tables, documents, wording, progress."""
