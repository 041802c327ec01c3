import pytest


@pytest.fixture
def cells_of():
    """Function that returns the cells of each row of a table, headings first."""

    def cells(table):
        lines = [line for line in table.splitlines() if line.startswith('|')]
        return [[cell.strip() for cell in line.split('|')[1:-1]] for line in lines]

    return cells
