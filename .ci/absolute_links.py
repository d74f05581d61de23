"""README for the package index, which knows no files beside it: relative links become addresses of the repository.

`python .ci/absolute_links.py README.md https://github.com/OWNER/NAME v1.2.3` changes the file in place.
"""

import re
import sys
from pathlib import Path

LINK = re.compile(r"(?P<image>!?)\[(?P<text>[^\]]*)\]\((?!https?:|#)(?P<path>[^)]+)\)")


def absolute(text: str, repository: str, revision: str) -> str:
    """Markdown with its relative links and images as those of a repository at a tag or commit."""

    def address(link: re.Match[str]) -> str:
        kind = "raw" if link["image"] else "blob"
        return f"{link['image']}[{link['text']}]({repository}/{kind}/{revision}/{link['path']})"

    return LINK.sub(address, text)


if __name__ == "__main__":
    page = Path(sys.argv[1])
    page.write_text(absolute(page.read_text(encoding="utf-8"), *sys.argv[2:]), encoding="utf-8")
