"""The contract that every method keeps, as tests for a method of a user's own.

    import pytest
    from patchkin.testing import CHECKS, MethodCase

    @pytest.mark.parametrize("check", CHECKS)
    def test_contract(check, tmp_path):
        CHECKS[check](MethodCase(NearColour, NearColourConfig(...)), tmp_path)

or all of them at once: `check_method(NearColour, NearColourConfig(...))`. With small networks they
take seconds on a CPU. What is broken is an AssertionError that says how.
"""

from patchkin.testing.contract import CHECKS, MethodCase, check_method

__all__ = ["CHECKS", "MethodCase", "check_method"]
