"""Links of README and docs lead somewhere, and README leads to each page."""

import pytest

from tests.support.commands import REPOSITORY
from tests.support.documentation import PAGES, find_anchors, find_links, read_page


@pytest.mark.parametrize("page", PAGES)
def test_links(page):
    for target in find_links(page):
        name, _, anchor = target.partition("#")
        path = (REPOSITORY / page).parent / name if name else REPOSITORY / page
        assert path.exists(), target
        if anchor:
            assert anchor in find_anchors(path), target


def test_readme_leads_to_each_page():
    linked = {target.partition("#")[0] for target in find_links("README.md")}
    assert {page for page in PAGES if page.startswith("docs/")} <= linked


def test_readme_is_short():
    assert len(read_page("README.md").splitlines()) < 150
