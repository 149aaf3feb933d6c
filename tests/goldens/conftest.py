import pytest

pytest.register_assert_rewrite("goldens.fixtures")


def pytest_terminal_summary(terminalreporter):
    from goldens.fixtures import unread_files

    if lines := unread_files():
        terminalreporter.section("goldens that no test reads")
        for line in lines:
            terminalreporter.write_line(line)
