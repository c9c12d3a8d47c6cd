"""A factory such as an operator names in the models' file."""


def make(device_id: str) -> dict[str, str]:
    """Make something that is no file."""
    return {"device": device_id}
