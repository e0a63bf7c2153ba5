"""What the site needs beside docs/: the pages of the repository's root, and links as they are there."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[2]
ROOT_PAGES = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "SECURITY.md": "security.md",
}
TABLE_AFTER_A_LINE = re.compile(r"^(<!-- .* -->|#+ .*)\n(?=\|)", re.MULTILINE)  # GitHub needs no empty line there
NOTEBOOK_LINK = re.compile(r'href="(?!https?:)([^"#]+)\.md(#[^"]*)?"')
LINK = re.compile(r"\]\((?!https?:|#)([^)#\s]+)(#[^)]*)?\)")


def on_files(files: Files, config: Any) -> Files:
    """Adds the pages of the repository's root."""
    for source, page in ROOT_PAGES.items():
        files.append(File.generated(config, page, content=(ROOT / source).read_text(encoding="utf-8")))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Turns the links of a page in the repository into links of the site; a file without a page loses its link."""
    source = next((name for name, target in ROOT_PAGES.items() if target == page.file.src_uri), None)
    folder = ROOT if source else (ROOT / "docs" / page.file.src_uri).parent

    def rewritten(match: re.Match[str]) -> str:
        target = (folder / match[1]).resolve()
        if not target.exists():
            return match[0]  # the build reports it
        path = target.relative_to(ROOT).as_posix()
        if path in ROOT_PAGES:
            path = "docs/" + ROOT_PAGES[path]
        if not path.startswith("docs/"):
            return "]"
        up = "../" * page.file.src_uri.count("/")
        return f"]({up}{path.removeprefix('docs/')}{match[2] or ''})"

    return TABLE_AFTER_A_LINE.sub(r"\1\n\n", LINK.sub(rewritten, markdown))


def on_page_content(html: str, page: Any, **_: Any) -> str:
    """Turns the links of a notebook, which has no Markdown of its own; a warning where there is no such page."""
    if not page.file.src_uri.endswith(".ipynb"):
        return html

    def rewritten(match: re.Match[str]) -> str:
        if not (ROOT / "docs" / page.file.src_uri).with_name(f"{match[1]}.md").exists():
            logging.getLogger("mkdocs.hooks").warning(f"{page.file.src_uri} links to {match[1]}.md, which is not there")
        return f'href="{match[1]}.html{match[2] or ""}"'

    return NOTEBOOK_LINK.sub(rewritten, html)
