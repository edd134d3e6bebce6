"""The studies of networks with kinks: all of their claims, in the quick version."""

import pytest

from gflow.studies import report


@pytest.mark.slow
@pytest.mark.parametrize("name", ["leaky-relu", "relu-square-loss"])
def test_claims(name, tmp_path):
    claims = report.reproduce(report.load(name), tmp_path, quick=True)
    assert [claim.text for claim in claims if not claim.holds] == []
