"""Many files in one process: which inputs become which outputs, run, recorded, resumed."""


def spaced(count: int) -> str:
    """12345678 as '12 345 678'."""
    return f"{count:,}".replace(",", " ")
