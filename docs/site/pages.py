"""The site shows the repository's own files at their own paths: a link that works on GitHub works on the site.

MkDocs calls `on_files`, `on_page_markdown` and `on_post_page`. Code and the notebook become pages, too. The page of the
commands gets their options, and every page ends with a link to the glossary.
"""

import posixpath
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from nbconvert import MarkdownExporter

ROOT = Path(__file__).parents[2]
COMMANDS, GLOSSARY = "docs/commands.md", "docs/glossary.md"
SHOWN = (
    "README.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "docs/*.*",
    "docs/site/*.css",
    "slurm/README.md",
    "slurm/profiles/*.yaml",
    "examples/*.*",
    "benchmarks/RESULTS.md",
    "autosparse/autos/pretrained/**/README.md",
)
LANGUAGES = {".py": "python", ".yaml": "yaml"}
ELSEWHERE = re.compile(
    r'<(?:script|link(?! rel="canonical")|img|iframe|source)\b[^>]*\b(?:src|href)="?(?:https?:)?//[^>]*>'
)


class PageFile(File):
    """A file that becomes a page although it is not Markdown."""

    def is_documentation_page(self) -> bool:
        return True


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Pages of the site, besides the theme's files."""
    shown = [file for file in files if file.src_dir != config.docs_dir]
    paths = [path.relative_to(ROOT) for pattern in SHOWN for path in sorted(ROOT.glob(pattern))]
    for path in paths:
        if path.suffix == ".ipynb":
            shown += _notebook(path, config)
        elif path.suffix in LANGUAGES:
            fenced = f"# {path.name}\n\n```{LANGUAGES[path.suffix]}\n{(ROOT / path).read_text()}```\n"
            shown.append(PageFile.generated(config, path.as_posix(), content=fenced))
        else:
            shown.append(File(path.as_posix(), str(ROOT), config.site_dir, config.use_directory_urls))
            if path.parts[0] == "docs":
                shown[-1].dest_uri = shown[-1].dest_uri.removeprefix("docs/")
    return Files(shown)


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Add the options of the commands to their page, and a link to the glossary to all other pages."""
    path = page.file.src_uri
    if path == COMMANDS:
        sys.path.insert(0, str(ROOT))
        from docs.site.commands import with_options

        markdown = with_options(markdown)
    link = posixpath.relpath(GLOSSARY, posixpath.dirname(path))
    return markdown if path == GLOSSARY else f"{markdown}\n\n---\n\n[The words of these pages]({link})\n"


def on_post_page(output: str, page: Page, config: MkDocsConfig) -> None:
    """Refuse what a reader's browser would load from elsewhere."""
    if found := ELSEWHERE.search(output):
        raise PluginError(f"{page.file.src_uri} loads from another site: {found[0]}")


def _notebook(path: Path, config: MkDocsConfig) -> Iterator[File]:
    """The page of a notebook, with the outputs that are saved in it, and its figures."""
    text, resources = MarkdownExporter().from_filename(str(ROOT / path))
    yield PageFile.generated(config, path.as_posix(), content=text)
    for name, content in resources["outputs"].items():
        yield File.generated(config, path.with_name(name).as_posix(), content=content)
