"""MkDocs hooks for pages outside of docs/, anchors, commands and the notebook.

Pages keep their paths in the repository, so that relative links work on GitHub and on the site.
"""

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from website.commands import describe_command
from website.notebook import describe_notebook

ROOT = Path(__file__).parents[2]
# Files outside of docs/ that the site contains: pages (README.md is replaced by docs/index.md) and files they link to.
OUTSIDE = ("[!R]*.md", "LICENSE", "examples/*/*.*")
# Links whose text is the name of a page.
LINK = re.compile(r"\[[\w/]+\.md\]\(([\w/.]+\.md)(#[\w-]+)?\)")
NOTEBOOK = "tutorial.ipynb"
COMMAND = re.compile(r"^<!-- options of centernet-(\w+) -->$", flags=re.MULTILINE)


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Use the anchors of GitHub."""
    config.mdx_configs["toc"]["slugify"] = lambda heading, _: re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Name pages by their paths in the repository, and add those outside of docs/."""
    for file in files:
        if file.src_dir == config.docs_dir:
            file.dest_uri = file.dest_uri  # docs/ stays the root of the site; otherwise, it follows from the name.
            file.src_dir, file.src_uri = str(ROOT), f"docs/{file.src_uri}"
    for path in sorted(path for pattern in OUTSIDE for path in ROOT.glob(pattern)):
        files.append(File.generated(config, path.relative_to(ROOT).as_posix(), abs_src_path=str(path)))
    path = ROOT / "docs" / NOTEBOOK
    page = File.generated(config, f"docs/{path.stem}.md", content=describe_notebook(path))
    page.dest_uri = f"{path.stem}.html"
    return Files([*files, page])


def on_page_markdown(markdown: str, page: Page, **_: object) -> str:
    """Replace markers of commands, names of pages, and the notebook.

    Commands become tables of options, names become titles, and the notebook becomes a page.
    """
    markdown = COMMAND.sub(lambda match: describe_command(match[1]), markdown)
    markdown = markdown.replace(f"{NOTEBOOK})", f"{Path(NOTEBOOK).stem}.md)")
    folder = (ROOT / page.file.src_uri).parent
    return LINK.sub(lambda match: f"[{_title(folder / match[1])}]({match[1]}{match[2] or ''})", markdown)


def _title(path: Path) -> str:
    """Return the first heading of a page."""
    return path.read_text(encoding="utf-8").partition("\n")[0].removeprefix("# ")
