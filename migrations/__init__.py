"""The alembic environment and the revisions of the store's schema; found as `gpuscout:migrations`, never imported."""
