"""Every document has a JSON Schema in docs/schemas, and what commands print meets it."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest

from tests.assets.make_schemas import ASKED, FOLDER, documents

pytestmark = pytest.mark.slow

PAGE = FOLDER.parent / "json-documents.md"


def test_documents_meet_their_schemas(tmp_path: Path) -> None:
    schemas = {file.stem: json.loads(file.read_text("utf-8")) for file in FOLDER.glob("*.json")}
    assert schemas.keys() == ASKED.keys()
    for name, printed in documents(tmp_path).items():
        jsonschema.Draft202012Validator.check_schema(schemas[name])
        validator = jsonschema.Draft202012Validator(schemas[name])
        for document in printed:
            wrong = [
                f"{'/'.join(map(str, error.path))}: {error.message[:200]}" for error in validator.iter_errors(document)
            ]
            assert not wrong, f"{name}: {wrong[:3]} (changed on purpose? python -m tests.assets.make_schemas)"


def test_the_page_names_every_schema() -> None:
    page = PAGE.read_text("utf-8")
    for name in ASKED:
        assert f"schemas/{name}.json" in page, name
