"""Write the tables of what is converted and what is refused into docs/models.md."""

from __future__ import annotations

import re
from pathlib import Path

from deltaconv_distill.conversion.families import refused_table, supported_table

PAGE = Path(__file__).parents[2] / "docs" / "models.md"


def main() -> None:
    """Replace each table where it stands, recognised by its head."""
    text = PAGE.read_text(encoding="utf-8")
    for table in (list(supported_table()), list(refused_table())):
        head = re.escape("\n".join(table[:2]))
        text, count = re.subn(rf"{head}(\n\|.*)*", lambda _, table=table: "\n".join(table), text)
        if count != 1:
            raise SystemExit(f"{PAGE}: expected one table that begins with {table[0]!r}, found {count}")
    PAGE.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
