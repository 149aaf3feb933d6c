import pytest

pytest.register_assert_rewrite("goldens.fixtures")


@pytest.fixture(autouse=True)
def _errors_for_programs(request):
    from goldens.errors import written

    with written(request):
        yield


def pytest_terminal_summary(terminalreporter):
    from goldens.fixtures import unread_files

    if lines := unread_files():
        terminalreporter.section("goldens that no test reads")
        for line in lines:
            terminalreporter.write_line(line)
