from __future__ import annotations

from tests.families import table


def test_the_page_of_models_is_up_to_date() -> None:
    """And every family is in it, tested."""
    assert (table.ROOT / "docs/models.md").read_text() == table.markdown(), "run scripts/write-models"
    assert [name for name, row in table.rows().items() if not row.references] == []
